//! Makes the bindings: `ONNXRUNTIME_INCLUDE` has onnxruntime_c_api.h, `ONNXRUNTIME_LIB` is
//! the shared library (a file).
use std::{env, fs, os::unix::fs::symlink, path::PathBuf, process::Command};

/// Where the C compiler keeps stdbool.h and the like: libclang comes without.
fn compiler_headers() -> String {
    let said = Command::new("cc")
        .arg("-print-file-name=include")
        .output()
        .expect("there is no C compiler, which linking needs too");
    String::from_utf8_lossy(&said.stdout).trim().to_string()
}

fn main() {
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    let wanted = |name: &str| {
        PathBuf::from(env::var(name).unwrap_or_else(|_| panic!("set {name}, see README.md")))
    };
    for name in ["ONNXRUNTIME_INCLUDE", "ONNXRUNTIME_LIB"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let header = wanted("ONNXRUNTIME_INCLUDE").join("onnxruntime_c_api.h");
    let made = Command::new("bindgen")
        .arg(&header)
        .args([
            "--allowlist-type",
            "Ort.*",
            "--allowlist-function",
            "OrtGetApiBase",
            "--allowlist-var",
            "ORT_API_VERSION",
        ])
        .args([
            "--no-layout-tests",
            "--no-doc-comments",
            "--default-enum-style",
            "moduleconsts",
            "-o",
        ])
        .arg(out.join("sys.rs"))
        .args(["--", "-isystem", &compiler_headers()])
        .status()
        .expect("the bindgen command could not be run (Debian: apt-get install bindgen)");
    assert!(
        made.success(),
        "bindgen could not read {}",
        header.display()
    );

    // The Python package has the library, but not under the names that a program is
    // linked to and started with.
    let library = wanted("ONNXRUNTIME_LIB")
        .canonicalize()
        .expect("ONNXRUNTIME_LIB is not there");
    for name in ["libonnxruntime.so", "libonnxruntime.so.1"] {
        let _ = fs::remove_file(out.join(name));
        symlink(&library, out.join(name)).expect("no link to the library");
    }
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=dylib=onnxruntime");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", out.display());
}
