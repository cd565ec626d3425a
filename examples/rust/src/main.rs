//! Greedy decoding of a StarCoder2 bundle: token ids in, token ids out.
mod cache;
mod json;
mod ort;
mod ring;

use std::io::Write;
use std::time::Instant;
use std::{env, fs, process, thread};

use cache::{Buffer, Shape};
use json::Json;
use ort::{Result, Session};
use ring::Ring;

const CHUNK: usize = 256; // tokens of a prompt computed at once
const FIRST: usize = 512; // slots of a fresh cache, where the window is larger
const USAGE: &str = "usage: starcoder2 BUNDLE --ids 1,2,3 [--max-new-tokens N] [--threads N] \
                     [--kernels LIBRARY] [--packed FILE] [--ignore-eos] [--json]";

struct Facts {
    layers: usize,
    heads: usize,
    size: usize,
    vocab: usize,
    context: usize,
    window: usize,
    eos: Vec<i64>,
    standard: bool, // products are written with standard operators
    kernels: bool,  // there is a graph for versions 2 to 4 of the kernels
}

impl Facts {
    fn read(bundle: &str) -> Result<Facts> {
        let text = fs::read_to_string(format!("{bundle}/sc2onnx.json")).map_err(|error| {
            format!(
                "{bundle} is not a bundle (sc2onnx.json: {error}): \
                     make one with `sc2onnx export CHECKPOINT OUT`"
            )
        })?;
        let manifest =
            Json::parse(&text).map_err(|error| format!("sc2onnx.json is malformed: {error}"))?;
        let (model, cache) = (manifest.get("model"), manifest.get("cache"));
        if (cache.get("kind").text(), cache.get("dtype").text())
            != ("ring-transposed-values", "float32")
        {
            return Err(format!(
                "the bundle has a cache of kind {}, expected a ring in float32: \
                 export it with --target cpu",
                cache.get("kind").text()
            ));
        }
        let count = |name: &str| model.get(name).number(name);
        let context = count("context_length")?;
        let window = if model.get("sliding_window") == &Json::Null {
            context
        } else {
            count("sliding_window")?
        };
        let eos = model
            .get("eos_token_ids")
            .list()
            .iter()
            .map(|id| id.number("eos_token_ids").map(|id| id as i64))
            .collect::<Result<_>>()?;
        Ok(Facts {
            layers: count("num_layers")?,
            heads: count("num_kv_heads")?,
            size: count("head_dim")?,
            vocab: count("vocab_size")?,
            context,
            window: window.min(context),
            eos,
            standard: manifest.get("target").text() == "portable",
            kernels: matches!(manifest.get("kernels").number("kernels"), Ok(2..=4)), // earlier: none
        })
    }
}

/// What a session is made with.
struct Setup {
    threads: i32,
    library: Option<String>, // of the kernels
    packed: Option<String>,  // file of weights packed for them; else they are packed now
}

struct Sequence {
    facts: Facts,
    session: Session,
    shape: Shape,
    buffers: Vec<Buffer>,
    ring: Ring,
    full: usize,
    logits: Vec<f32>,
}

impl Sequence {
    fn open(bundle: &str, setup: &Setup) -> Result<Sequence> {
        let facts = Facts::read(bundle)?;
        let library = setup.library.as_deref().filter(|_| facts.kernels);
        let shape = Shape {
            heads: facts.heads,
            size: facts.size,
            kernels: library.is_some(),
        };
        let graph = if shape.kernels {
            "model.kernels.onnx"
        } else {
            "model.onnx"
        };
        let config = Self::config(setup, &facts, shape.kernels);
        let session = Session::open(
            &format!("{bundle}/{graph}"),
            setup.threads,
            &config,
            library,
        )?;
        // Room for a chunk, and to rewind as much.
        let full = shape.tiled((facts.window + 2 * CHUNK - 1).min(facts.context));
        let ring = Ring::new(facts.window, FIRST.min(full));
        let buffers = Buffer::all(facts.layers, shape, ring.capacity);
        let logits = vec![0.0; facts.vocab];
        Ok(Sequence {
            facts,
            session,
            shape,
            buffers,
            ring,
            full,
            logits,
        })
    }

    fn config(setup: &Setup, facts: &Facts, kernels: bool) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if facts.standard {
            found.push(("session.qdq_matmulnbits_accuracy_level", "4".to_string()));
        }
        if kernels {
            found.push(("sc2onnx.threads", setup.threads.to_string()));
            found.extend(
                setup
                    .packed
                    .iter()
                    .map(|file| ("sc2onnx.packed", file.clone())),
            );
        }
        found
    }

    /// Computes these tokens and gives the most likely next one.
    fn append(&mut self, tokens: &[i64]) -> Result<i64> {
        self.check(tokens)?;
        let mut rest = tokens;
        while !rest.is_empty() {
            let most = rest.len().min(CHUNK);
            if self.ring.length + most > self.ring.capacity && self.ring.capacity < self.full {
                self.grow(self.shape.tiled(self.ring.length + most));
            }
            let (now, later) = rest.split_at(self.ring.step(most));
            self.run(now)?;
            rest = later;
        }
        self.greedy()
    }

    fn check(&self, tokens: &[i64]) -> Result<()> {
        let (total, vocab) = (self.ring.length + tokens.len(), self.facts.vocab);
        if tokens.is_empty() || total > self.facts.context {
            return Err(format!(
                "{total} tokens, expected 1 to {}, the context",
                self.facts.context
            ));
        }
        match tokens.iter().find(|&&id| id < 0 || id >= vocab as i64) {
            Some(id) => Err(format!("token id {id}, expected 0 to {}", vocab - 1)),
            None => Ok(()),
        }
    }

    fn grow(&mut self, slots: usize) {
        let (before, after) = (
            self.ring.capacity,
            slots.max(2 * self.ring.capacity).min(self.full),
        );
        for buffer in &mut self.buffers {
            buffer.grow(self.shape, before, after);
        }
        self.ring.capacity = after;
    }

    fn run(&mut self, tokens: &[i64]) -> Result<()> {
        let (mut ids, mut past) = (tokens.to_vec(), [self.ring.length as i64]);
        let step = ids.len() as i64;
        let mut run = self.session.run()?;
        run.input("input_ids", &mut ids, &[1, step])?;
        run.input("past_lengths", &mut past, &[1])?;
        run.output("logits", &mut self.logits, &[1, 1, self.facts.vocab as i64])?;
        for buffer in &mut self.buffers {
            let shape = self.shape.tensor(buffer.keys, self.ring.capacity);
            if self.shape.kernels {
                run.in_place::<u8>(&buffer.past, &buffer.present, &mut buffer.words, &shape)?;
            } else {
                run.in_place::<f32>(&buffer.past, &buffer.present, &mut buffer.words, &shape)?;
            }
        }
        run.finish()?;
        self.ring.advance(tokens.len());
        Ok(())
    }

    fn greedy(&self) -> Result<i64> {
        if self.logits.iter().any(|logit| !logit.is_finite()) {
            return Err("logits are not numbers: the weights are damaged".into());
        }
        let best = (1..self.logits.len()).fold(0, |best, id| {
            if self.logits[id] > self.logits[best] {
                id
            } else {
                best
            }
        });
        Ok(best as i64)
    }
}

struct Arguments {
    bundle: String,
    ids: Vec<i64>,
    most: usize,
    setup: Setup,
    ignore_eos: bool,
    json: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as i32);
    let mut found = Arguments {
        bundle: String::new(),
        ids: Vec::new(),
        most: 64,
        setup: Setup {
            threads,
            library: env::var("SC2ONNX_KERNELS_LIBRARY")
                .ok()
                .filter(|path| !path.is_empty()),
            packed: None,
        },
        ignore_eos: false,
        json: false,
    };
    while let Some(word) = words.next() {
        let mut number = |what: &str| {
            words
                .next()
                .and_then(|text| text.parse::<usize>().ok())
                .ok_or(format!("{what} wants a number\n{USAGE}"))
        };
        match word.as_str() {
            "--max-new-tokens" => found.most = number("--max-new-tokens")?,
            "--threads" => found.setup.threads = number("--threads")? as i32,
            "--kernels" => found.setup.library = Some(words.next().ok_or(USAGE)?),
            "--packed" => found.setup.packed = Some(words.next().ok_or(USAGE)?),
            "--ids" => {
                let list = words.next().ok_or(USAGE)?;
                found.ids = list
                    .split(',')
                    .map(|id| {
                        id.trim()
                            .parse()
                            .map_err(|_| format!("{id:?} is no token id"))
                    })
                    .collect::<Result<_>>()?;
            }
            "--ignore-eos" => found.ignore_eos = true,
            "--json" => found.json = true,
            _ if found.bundle.is_empty() && !word.starts_with('-') => found.bundle = word,
            _ => return Err(USAGE.into()),
        }
    }
    if found.bundle.is_empty() || found.ids.is_empty() {
        return Err(USAGE.into());
    }
    Ok(found)
}

fn complete(arguments: &Arguments) -> Result<()> {
    let mut sequence = Sequence::open(&arguments.bundle, &arguments.setup)?;
    let (mut tokens, mut next, mut seconds) = (Vec::new(), arguments.ids.clone(), Vec::new());
    while tokens.len() < arguments.most
        && sequence.ring.length + next.len() <= sequence.facts.context
    {
        let began = Instant::now();
        let token = sequence.append(&next)?;
        if !tokens.is_empty() {
            seconds.push(began.elapsed().as_secs_f64());
        }
        if !arguments.ignore_eos && sequence.facts.eos.contains(&token) {
            break;
        }
        tokens.push(token);
        next = vec![token];
        if !arguments.json {
            print!("{token} ");
            let _ = std::io::stdout().flush();
        }
    }
    if !arguments.json {
        println!();
        return Ok(());
    }
    seconds.sort_by(f64::total_cmp);
    let (median, version) = (
        seconds.get(seconds.len() / 2).copied().unwrap_or(0.0),
        ort::version(),
    );
    let runtime = if sequence.shape.kernels {
        "onnxruntime and kernels, Rust"
    } else {
        "onnxruntime, Rust"
    };
    println!(
        "{{\"tokens\": {tokens:?}, \"seconds_per_token\": {median}, \
         \"runtime\": \"{runtime}\", \"version\": \"{version}\"}}"
    );
    Ok(())
}

fn main() {
    if env::var_os("ORT_DISABLE_TELEMETRY").is_none() {
        // read when ONNX Runtime's environment is made: else it reports home
        env::set_var("ORT_DISABLE_TELEMETRY", "1");
    }
    if let Err(message) = parse(env::args().skip(1)).and_then(|arguments| complete(&arguments)) {
        eprintln!("{message}");
        process::exit(2);
    }
}
