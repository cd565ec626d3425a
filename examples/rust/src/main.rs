//! Greedy decoding of a StarCoder2 bundle: token ids in, token ids out.
mod json;
mod ort;
mod ring;

use std::io::Write;
use std::time::Instant;
use std::{env, fs, process, thread};

use json::Json;
use ort::{Result, Session};
use ring::Ring;

const CHUNK: usize = 256; // tokens of a prompt computed at once
const FIRST: usize = 512; // slots of a fresh cache, where the window is larger
const USAGE: &str = "usage: starcoder2 BUNDLE --ids 1,2,3 [--max-new-tokens N] [--threads N] [--ignore-eos] [--json]";

struct Facts {
    layers: usize,
    heads: usize,
    size: usize,
    vocab: usize,
    context: usize,
    window: usize,
    eos: Vec<i64>,
    standard: bool, // products are written with standard operators
}

impl Facts {
    fn read(bundle: &str) -> Result<Facts> {
        let text = fs::read_to_string(format!("{bundle}/sc2onnx.json"))
            .map_err(|error| format!("{bundle} is not a bundle (sc2onnx.json: {error}): make one with `sc2onnx export CHECKPOINT OUT`"))?;
        let manifest = Json::parse(&text).map_err(|error| format!("sc2onnx.json is malformed: {error}"))?;
        let (model, cache) = (manifest.get("model"), manifest.get("cache"));
        if (cache.get("kind").text(), cache.get("dtype").text()) != ("ring-transposed-values", "float32") {
            return Err(format!(
                "the bundle has a cache of kind {}, expected a ring in float32: export it with --target cpu",
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
        })
    }
}

/// One buffer of the cache: keys are rows of channels, (heads, capacity, size); values are columns, (heads, size, capacity).
struct Buffer {
    past: String,
    present: String,
    keys: bool,
    data: Vec<f32>,
}

struct Sequence {
    facts: Facts,
    session: Session,
    buffers: Vec<Buffer>,
    ring: Ring,
    full: usize,
    logits: Vec<f32>,
}

impl Sequence {
    fn open(bundle: &str, threads: i32) -> Result<Sequence> {
        let facts = Facts::read(bundle)?;
        let config: &[_] = if facts.standard {
            &[("session.qdq_matmulnbits_accuracy_level", "4")]
        } else {
            &[]
        };
        let session = Session::open(&format!("{bundle}/model.onnx"), threads, config)?;
        let full = (facts.window + 2 * CHUNK - 1).min(facts.context); // room for a chunk, and to rewind as much
        let ring = Ring::new(facts.window, FIRST.min(full));
        let names = (0..facts.layers).flat_map(|layer| [(layer, true), (layer, false)]);
        let buffers = names.map(|(layer, keys)| {
            let name = format!("{layer}.{}", if keys { "key" } else { "value" });
            let data = vec![0.0; facts.heads * ring.capacity * facts.size];
            Buffer {
                past: format!("past_key_values.{name}"),
                present: format!("present.{name}"),
                keys,
                data,
            }
        });
        let (buffers, logits) = (buffers.collect(), vec![0.0; facts.vocab]);
        Ok(Sequence {
            facts,
            session,
            buffers,
            ring,
            full,
            logits,
        })
    }

    /// Computes these tokens and gives the most likely next one.
    fn append(&mut self, tokens: &[i64]) -> Result<i64> {
        self.check(tokens)?;
        let mut rest = tokens;
        while !rest.is_empty() {
            let most = rest.len().min(CHUNK);
            if self.ring.length + most > self.ring.capacity && self.ring.capacity < self.full {
                self.grow(self.ring.length + most);
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
            return Err(format!("{total} tokens, expected 1 to {}, the context", self.facts.context));
        }
        match tokens.iter().find(|&&id| id < 0 || id >= vocab as i64) {
            Some(id) => Err(format!("token id {id}, expected 0 to {}", vocab - 1)),
            None => Ok(()),
        }
    }

    /// A larger cache: as long as nothing has wrapped, a slot keeps its number.
    fn grow(&mut self, slots: usize) {
        let (before, after) = (self.ring.capacity, slots.max(2 * self.ring.capacity).min(self.full));
        for buffer in &mut self.buffers {
            let width = if buffer.keys { self.facts.size } else { 1 };
            let mut larger = vec![0.0; buffer.data.len() / before * after];
            for (to, from) in larger.chunks_exact_mut(after * width).zip(buffer.data.chunks_exact(before * width)) {
                to[..from.len()].copy_from_slice(from);
            }
            buffer.data = larger;
        }
        self.ring.capacity = after;
    }

    fn run(&mut self, tokens: &[i64]) -> Result<()> {
        let (mut ids, mut past) = (tokens.to_vec(), [self.ring.length as i64]);
        let (heads, size, capacity) = (self.facts.heads as i64, self.facts.size as i64, self.ring.capacity as i64);
        let step = ids.len() as i64;
        let mut run = self.session.run()?;
        run.input("input_ids", &mut ids, &[1, step])?;
        run.input("past_lengths", &mut past, &[1])?;
        run.output("logits", &mut self.logits, &[1, 1, self.facts.vocab as i64])?;
        for buffer in &mut self.buffers {
            let shape = if buffer.keys {
                [1, heads, capacity, size]
            } else {
                [1, heads, size, capacity]
            };
            run.in_place(&buffer.past, &buffer.present, &mut buffer.data, &shape)?;
        }
        run.finish()?;
        self.ring.advance(tokens.len());
        Ok(())
    }

    fn greedy(&self) -> Result<i64> {
        if self.logits.iter().any(|logit| !logit.is_finite()) {
            return Err("logits are not numbers: the weights are damaged".into());
        }
        let best = (1..self.logits.len()).fold(0, |best, id| if self.logits[id] > self.logits[best] { id } else { best });
        Ok(best as i64)
    }
}

struct Arguments {
    bundle: String,
    ids: Vec<i64>,
    most: usize,
    threads: i32,
    ignore_eos: bool,
    json: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as i32);
    let mut found = Arguments {
        bundle: String::new(),
        ids: Vec::new(),
        most: 64,
        threads,
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
            "--threads" => found.threads = number("--threads")? as i32,
            "--ids" => {
                let list = words.next().ok_or(USAGE)?;
                found.ids = list
                    .split(',')
                    .map(|id| id.trim().parse().map_err(|_| format!("{id:?} is no token id")))
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
    let mut sequence = Sequence::open(&arguments.bundle, arguments.threads)?;
    let (mut tokens, mut next, mut seconds) = (Vec::new(), arguments.ids.clone(), Vec::new());
    while tokens.len() < arguments.most && sequence.ring.length + next.len() <= sequence.facts.context {
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
    let (median, version) = (seconds.get(seconds.len() / 2).copied().unwrap_or(0.0), ort::version());
    println!("{{\"tokens\": {tokens:?}, \"seconds_per_token\": {median}, \"runtime\": \"onnxruntime, Rust\", \"version\": \"{version}\"}}");
    Ok(())
}

fn main() {
    if env::var_os("ORT_DISABLE_TELEMETRY").is_none() {
        env::set_var("ORT_DISABLE_TELEMETRY", "1"); // read when ONNX Runtime's environment is made: else it reports home
    }
    if let Err(message) = parse(env::args().skip(1)).and_then(|arguments| complete(&arguments)) {
        eprintln!("{message}");
        process::exit(2);
    }
}
