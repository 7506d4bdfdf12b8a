//! Small stages that do what real ones do to a scheduler: take time, fail, die, hang, checkpoint, hold leases, draw randomness.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sprint_artifacts::{ArtifactId, Manifest, Secrecy, Store};
use sprint_stage_api::{
    CachePolicy, Effect, ErrorClass, InputPort, OutputPort, ParamProblem, Registry, Stage, StageContext, StageError,
    StageOutputs, StageSpec,
};

type Run = fn(&StageContext<'_>) -> Result<StageOutputs, StageError>;

pub(crate) struct Toy {
    spec: StageSpec,
    /// Parameter names with defaults; `null` means required.
    params: Vec<(&'static str, Value)>,
    pinned: Option<&'static str>,
    run: Run,
}

impl Stage for Toy {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        let given = params.as_object().cloned().unwrap_or_default();
        let mut problems = Vec::new();
        let mut normal = serde_json::Map::new();
        for (name, value) in &given {
            match self.params.iter().find(|(known, _)| known == name) {
                None => problems.push(ParamProblem::new(&[name], format!("there is no parameter `{name}`"))),
                Some((_, default)) if default.is_number() && !value.is_number() => {
                    problems.push(ParamProblem::new(&[name], format!("must be a number, not {value}")));
                }
                Some(_) => drop(normal.insert(name.clone(), value.clone())),
            }
        }
        for (name, default) in &self.params {
            if !given.contains_key(*name) {
                if default.is_null() {
                    problems.push(ParamProblem::new(&[name], format!("`{name}` is required")));
                }
                normal.insert((*name).to_owned(), default.clone());
            }
        }
        if problems.is_empty() { Ok(normal.into()) } else { Err(problems) }
    }

    fn pin(&self, params: &Value, base: &Path) -> Result<Value, Vec<ParamProblem>> {
        let mut params = params.clone();
        if let Some(name) = self.pinned
            && let Some(file) = params[name].as_str().filter(|f| !f.is_empty())
        {
            let bytes =
                fs::read(base.join(file)).map_err(|e| vec![ParamProblem::new(&[name], format!("cannot read {file}: {e}"))])?;
            params["pinned"] = sprint_artifacts::Digest::of(&bytes).to_string().into();
        }
        Ok(params)
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let axes: Vec<String> = ctx.axes().iter().map(|(a, v)| format!("{a}={v}")).collect();
        append(&ctx.base().join("ran.log"), &format!("{}[{}]", self.spec.kind, axes.join(",")));
        (self.run)(ctx)
    }

    fn release(&self, ctx: &StageContext<'_>, _outputs: &StageOutputs) -> Result<(), StageError> {
        append(&ctx.base().join("released.log"), self.spec.kind);
        let _ = fs::remove_file(ctx.base().join("lease"));
        if ctx.params()["stuck"] == json!(1) {
            return Err(StageError::transient("the machine does not answer"));
        }
        Ok(())
    }
}

/// One line at a time, whoever writes.
pub(crate) fn append(path: &Path, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the test folder is writable");
    file.write_all(format!("{line}\n").as_bytes()).expect("the test folder is writable");
}

fn port(name: &'static str) -> InputPort {
    InputPort { name, artifact: "text", optional: false, gather: false }
}

fn kind(kind: &'static str, inputs: Vec<InputPort>, params: &[(&'static str, Value)], run: Run) -> Toy {
    let outputs = vec![OutputPort { name: "out", artifact: "text", secrecy: Secrecy::Public }];
    let spec = StageSpec {
        kind,
        version: 1,
        about: "A toy.",
        inputs,
        outputs,
        effect: Effect::Pure,
        cache: CachePolicy::Always,
        code_digest: "toy-1",
        params_schema: json!({"type": "object"}),
    };
    Toy { spec, params: params.to_vec(), pinned: None, run }
}

pub(crate) fn put(store: &Store, text: &str, secrecy: Secrecy) -> Result<ArtifactId, StageError> {
    let builder = Manifest::builder("text@1", secrecy).bytes("text", text.as_bytes().to_vec());
    store.put_artifact(builder).map(|(id, _)| id).map_err(|e| StageError::permanent(e.to_string()))
}

pub(crate) fn get(store: &Store, id: &ArtifactId) -> Result<String, StageError> {
    let read = || store.read_artifact(id).and_then(|m| store.read_file(&m, "text"));
    let bytes = read().map_err(|e| StageError::permanent(e.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn out(ctx: &StageContext<'_>, text: &str) -> Result<StageOutputs, StageError> {
    Ok(StageOutputs::new().with("out", put(ctx.store(), text, Secrecy::Public)?))
}

fn source(ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
    let file = ctx.params()["file"].as_str().unwrap_or_default();
    let text = match file {
        "" => ctx.params()["text"].to_string(),
        file => fs::read_to_string(ctx.base().join(file)).map_err(|e| StageError::permanent(e.to_string()))?,
    };
    out(ctx, &text)
}

fn upper(ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
    out(ctx, &get(ctx.store(), &ctx.input("in")?.id)?.to_uppercase())
}

fn copy(ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
    out(ctx, &format!("{}{}", get(ctx.store(), &ctx.input("in")?.id)?, ctx.params()["suffix"].as_str().unwrap_or_default()))
}

fn join(ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
    let rows = ctx.gathered("rows").iter().map(|a| Ok(format!("{:?} {}", a.axes, get(ctx.store(), &a.id)?)));
    out(ctx, &rows.collect::<Result<Vec<_>, StageError>>()?.join("\n"))
}

/// Different each time, as shares are.
fn share(ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
    let model = get(ctx.store(), &ctx.input("in")?.id)?;
    let nonce = format!("{:?}", std::time::SystemTime::now());
    Ok(StageOutputs::new().with("out", put(ctx.store(), &format!("{model} {nonce}"), Secrecy::Party(0))?))
}

/// Fails in the way asked for until it was tried often enough.
fn flaky(ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
    let counter = ctx.checkpoints().ledger_dir().join("attempts");
    append(&counter, "attempt");
    let tried = fs::read_to_string(&counter).unwrap_or_default().lines().count() as u64;
    if tried > ctx.params()["times"].as_u64().unwrap_or(0) {
        return out(ctx, &format!("after {tried}"));
    }
    match ctx.params()["how"].as_str().unwrap_or_default() {
        "transient" => Err(StageError::transient("reset by peer")),
        "permanent" => Err(StageError::permanent("row 7 has no label")),
        "refused" => Err(StageError::new(ErrorClass::Refused, "the budget is spent")),
        "panic" => panic!("index out of bounds"),
        "exit" => std::process::exit(3),
        "kill" => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::thread::sleep(Duration::from_secs(60));
            unreachable!("it was killed")
        }
        "wrong_label" => Ok(StageOutputs::new().with("out", put(ctx.store(), "x", Secrecy::Secret)?)),
        "no_output" => Ok(StageOutputs::new()),
        "garbage" => {
            println!("a library that prints to standard output");
            out(ctx, "printed")
        }
        other => Err(StageError::permanent(format!("unknown mishap {other}"))),
    }
}

/// Takes its time, and tells when it was at it; with `meet`, waits until that many have begun.
fn slow(ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
    let end = Instant::now() + Duration::from_millis(ctx.params()["ms"].as_u64().unwrap_or(0));
    let log = ctx.base().join("slow.log");
    append(&log, "begin");
    let begun = || fs::read_to_string(&log).unwrap_or_default().lines().filter(|l| *l == "begin").count() as u64;
    let patience = Instant::now() + Duration::from_secs(200);
    while begun() < ctx.params()["meet"].as_u64().unwrap_or(0) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    while Instant::now() < end {
        if ctx.is_cancelled() && ctx.params()["deaf"] != json!(1) {
            append(&ctx.base().join("slow.log"), "cancelled");
            return Err(StageError::new(ErrorClass::Cancelled, "cancelled"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    append(&ctx.base().join("slow.log"), "end");
    out(ctx, &ctx.params().to_string())
}

/// Counts, saving after every step; each step done is a line in `steps.log`.
fn steps(ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
    let total = ctx.params()["n"].as_u64().unwrap_or(0);
    let mut done = match ctx.checkpoints().latest()? {
        Some(bundle) => String::from_utf8_lossy(&bundle).parse().map_err(|_| StageError::permanent("a foreign checkpoint"))?,
        None => 0u64,
    };
    while done < total {
        if ctx.is_cancelled() {
            return Err(StageError::new(ErrorClass::Cancelled, "cancelled"));
        }
        std::thread::sleep(Duration::from_millis(ctx.params()["ms"].as_u64().unwrap_or(0)));
        done += 1;
        append(&ctx.base().join("steps.log"), &done.to_string());
        ctx.checkpoints().offer(done.to_string().as_bytes())?;
        ctx.progress(done, Some(total), "steps", None);
    }
    out(ctx, &total.to_string())
}

fn lease(ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
    fs::write(ctx.base().join("lease"), "held").map_err(|e| StageError::permanent(e.to_string()))?;
    out(ctx, "hosts")
}

/// All toys.
pub(crate) fn registry() -> Registry {
    registry_with(1)
}

/// All toys; `copy` at this version.
pub(crate) fn registry_with(copy_version: u32) -> Registry {
    let rows = InputPort { name: "rows", artifact: "text", optional: false, gather: true };
    let hosts = InputPort { name: "hosts", artifact: "text", optional: true, gather: false };
    let extra = InputPort { name: "extra", artifact: "text", optional: true, gather: false };
    let mut source = kind("source", vec![], &[("text", json!("")), ("file", json!(""))], source);
    source.pinned = Some("file");
    let mut copy = kind("copy", vec![port("in"), extra], &[("suffix", json!("")), ("seed", json!(0))], copy);
    copy.spec.version = copy_version;
    let mut share = kind("share", vec![port("in")], &[], share);
    share.spec.effect = Effect::FreshRandomness;
    share.spec.cache = CachePolicy::Never;
    share.spec.outputs[0].secrecy = Secrecy::Party(0);
    let mut lease = kind("lease", vec![], &[("stuck", json!(0))], lease);
    lease.spec.effect = Effect::Lease;
    lease.spec.cache = CachePolicy::Never;
    lease.spec.outputs[0].artifact = "text";
    let toys = vec![
        source,
        copy,
        share,
        lease,
        kind("upper", vec![port("in")], &[], upper),
        kind("join", vec![rows], &[], join),
        kind("flaky", vec![hosts], &[("times", json!(0)), ("how", json!("transient")), ("tag", json!(""))], flaky),
        kind("slow", vec![], &[("ms", json!(0)), ("meet", json!(0)), ("tag", json!("")), ("deaf", json!(0))], slow),
        kind("steps", vec![], &[("n", json!(0)), ("ms", json!(0))], steps),
    ];
    let mut registry = Registry::new();
    for toy in toys {
        registry.register(Arc::new(toy)).expect("toys have distinct kinds");
    }
    registry
}
