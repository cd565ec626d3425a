//! As much of ONNX Runtime as decoding takes, over its C API: what is made is
//! released, statuses are errors.
use std::ffi::{CStr, CString};
use std::ptr::{null, null_mut};

#[allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    clippy::all
)]
mod sys {
    include!(concat!(env!("OUT_DIR"), "/sys.rs"));
}

use sys::{
    OrtApi, OrtEnv, OrtIoBinding, OrtMemoryInfo, OrtSession, OrtSessionOptions, OrtStatus, OrtValue,
};

pub type Result<T> = std::result::Result<T, String>;

fn api() -> &'static OrtApi {
    // The table lives as long as the library, which is never unloaded.
    unsafe { &*((*sys::OrtGetApiBase()).GetApi.unwrap())(sys::ORT_API_VERSION) }
}

/// The library's version.
pub fn version() -> String {
    unsafe { CStr::from_ptr(((*sys::OrtGetApiBase()).GetVersionString.unwrap())()) }
        .to_string_lossy()
        .into_owned()
}

fn checked(status: *mut OrtStatus) -> Result<()> {
    if status.is_null() {
        return Ok(());
    }
    unsafe {
        let message = CStr::from_ptr((api().GetErrorMessage.unwrap())(status))
            .to_string_lossy()
            .into_owned();
        (api().ReleaseStatus.unwrap())(status);
        Err(message)
    }
}

/// Calls an entry of the table that may fail.
macro_rules! call {
    ($name:ident($($argument:expr),*)) => {
        checked(unsafe { (api().$name.unwrap())($($argument),*) })
    };
}

/// A type whose values own a pointer that ONNX Runtime made and releases.
macro_rules! owned {
    ($name:ident, $raw:ty, $release:ident) => {
        struct $name(*mut $raw);
        impl Drop for $name {
            fn drop(&mut self) {
                unsafe { (api().$release.unwrap())(self.0) }
            }
        }
    };
}

owned!(Env, OrtEnv, ReleaseEnv);
owned!(Options, OrtSessionOptions, ReleaseSessionOptions);
owned!(Memory, OrtMemoryInfo, ReleaseMemoryInfo);
owned!(Loaded, OrtSession, ReleaseSession);
owned!(Value, OrtValue, ReleaseValue);
owned!(Binding, OrtIoBinding, ReleaseIoBinding);

/// An element that tensors are made of here.
pub trait Element: Copy {
    const KIND: sys::ONNXTensorElementDataType::Type;
}
impl Element for f32 {
    const KIND: sys::ONNXTensorElementDataType::Type =
        sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}
impl Element for u8 {
    const KIND: sys::ONNXTensorElementDataType::Type =
        sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}
impl Element for i64 {
    const KIND: sys::ONNXTensorElementDataType::Type =
        sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| format!("{text:?} has a zero byte"))
}

/// A loaded graph. Fields are released in this order: the session before the
/// environment that it lives in.
pub struct Session {
    session: Loaded,
    memory: Memory,
    _env: Env,
}

impl Session {
    /// `library`: of further operators, which is told of `config` when it is registered.
    pub fn open(
        graph: &str,
        threads: i32,
        config: &[(&str, String)],
        library: Option<&str>,
    ) -> Result<Session> {
        let name = text("starcoder2")?;
        let mut env = null_mut();
        call!(CreateEnv(
            sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR,
            name.as_ptr(),
            &mut env
        ))?;
        let env = Env(env);
        let mut options = null_mut();
        call!(CreateSessionOptions(&mut options))?;
        let options = Options(options);
        call!(SetIntraOpNumThreads(options.0, threads))?;
        for (key, value) in config {
            let (key, value) = (text(key)?, text(value)?);
            call!(AddSessionConfigEntry(
                options.0,
                key.as_ptr(),
                value.as_ptr()
            ))?;
        }
        if let Some(path) = library {
            let path = text(path)?;
            call!(RegisterCustomOpsLibrary_V2(options.0, path.as_ptr()))?;
        }
        let mut memory = null_mut();
        call!(CreateCpuMemoryInfo(
            sys::OrtAllocatorType::OrtArenaAllocator,
            sys::OrtMemType::OrtMemTypeDefault,
            &mut memory
        ))?;
        let memory = Memory(memory);
        let (path, mut session) = (text(graph)?, null_mut());
        call!(CreateSession(env.0, path.as_ptr(), options.0, &mut session))?;
        Ok(Session {
            session: Loaded(session),
            memory,
            _env: env,
        })
    }

    pub fn run<'a>(&'a self) -> Result<Run<'a>> {
        let mut binding = null_mut();
        call!(CreateIoBinding(self.session.0, &mut binding))?;
        Ok(Run {
            session: self,
            binding: Binding(binding),
            values: Vec::new(),
        })
    }
}

/// One run, whose inputs and outputs lie in memory that is borrowed until it is over.
pub struct Run<'a> {
    session: &'a Session,
    binding: Binding,
    values: Vec<Value>,
}

impl<'a> Run<'a> {
    /// A tensor of T over this memory, whose own elements may be of another type.
    fn value<T: Element, D>(&mut self, data: &'a mut [D], shape: &[i64]) -> Result<*mut OrtValue> {
        let (size, mut value) = (std::mem::size_of_val(data), null_mut());
        call!(CreateTensorWithDataAsOrtValue(
            self.session.memory.0,
            data.as_mut_ptr().cast(),
            size as _,
            shape.as_ptr(),
            shape.len() as _,
            T::KIND,
            &mut value
        ))?; // size_t is u64 to older versions of bindgen
        self.values.push(Value(value));
        Ok(value)
    }

    pub fn input<T: Element>(
        &mut self,
        name: &str,
        data: &'a mut [T],
        shape: &[i64],
    ) -> Result<()> {
        let (name, value) = (text(name)?, self.value::<T, T>(data, shape)?);
        call!(BindInput(self.binding.0, name.as_ptr(), value))
    }

    pub fn output<T: Element>(
        &mut self,
        name: &str,
        data: &'a mut [T],
        shape: &[i64],
    ) -> Result<()> {
        let (name, value) = (text(name)?, self.value::<T, T>(data, shape)?);
        call!(BindOutput(self.binding.0, name.as_ptr(), value))
    }

    /// An output in the memory of an input, which ONNX Runtime then changes in place. A word holds
    /// a float or four bytes.
    pub fn in_place<T: Element>(
        &mut self,
        input: &str,
        output: &str,
        words: &'a mut [u32],
        shape: &[i64],
    ) -> Result<()> {
        let (input, output, value) = (
            text(input)?,
            text(output)?,
            self.value::<T, u32>(words, shape)?,
        );
        call!(BindInput(self.binding.0, input.as_ptr(), value))?;
        call!(BindOutput(self.binding.0, output.as_ptr(), value))
    }

    pub fn finish(self) -> Result<()> {
        call!(RunWithBinding(
            self.session.session.0,
            null(),
            self.binding.0
        ))
    }
}
