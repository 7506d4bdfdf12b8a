//! Digests the source closure of every kind of stage, so that a result is reused only by code that would make it again.
//!
//! A kind's digest covers, in a fixed order, its own modules, the modules and engine crates that it uses, and the locked versions of the
//! packages that those depend on. Paths are relative to the workspace; neither time nor place of a build matters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// A kind: the constant's name, its sources, the packages whose dependencies it links.
struct Kind {
    name: &'static str,
    sources: &'static [&'static str],
    packages: &'static [&'static str],
}

const STAGE: &[&str] = &["stages/api/src", "stages/src/params", "stages/src/errors.rs"];

const DATASET: &str = "stages/src/dataset";
const GLUE: &str = "stages/src/glue";
const MODEL: &str = "engines/model/src";
const CLEAR: &str = "engines/clear/src";
const DP: &str = "engines/dp/src";
const TRAIN: &str = "engines/train/src";
const KERNEL: &str = "engines/kernel/src";
const MPC_CORE: &str = "engines/mpc-core/src";
const MPC: &str = "engines/mpc/src";
const PREDICTIONS: &str = "stages/src/predictions.rs";
const PRIVACY: &str = "stages/src/privacy.rs";
const COST: &str = "stages/src/cost.rs";
const STORED_MODEL: &str = "stages/src/model.rs";
const FLEET: &str = "stages/src/fleet";
const SHARE: &str = "stages/src/share.rs";
const CALIBRATE: &str = "stages/src/calibrate";

const KINDS: &[Kind] = &[
    Kind { name: "DOWNLOAD", sources: &["stages/src/download"], packages: &["reqwest", "sha2", "blake3"] },
    Kind {
        name: "TOKENIZE",
        sources: &["stages/src/tokenize", DATASET, GLUE, MODEL],
        packages: &["sprint-model", "csv", "parquet"],
    },
    Kind {
        name: "FINETUNE",
        sources: &["stages/src/finetune", DATASET, GLUE, STORED_MODEL, PRIVACY, MODEL, DP, TRAIN],
        packages: &["sprint-train"],
    },
    Kind {
        name: "CALIBRATE",
        sources: &[CALIBRATE, DATASET, GLUE, STORED_MODEL, MODEL, CLEAR],
        packages: &["sprint-clear", "sprint-model"],
    },
    Kind {
        name: "SHARE",
        sources: &[SHARE, CALIBRATE, STORED_MODEL, MODEL, CLEAR, KERNEL, MPC_CORE, MPC],
        packages: &["sprint-clear", "sprint-mpc"],
    },
    Kind {
        name: "SHARE_THREE",
        sources: &["stages/src/share_three.rs", SHARE, CALIBRATE, STORED_MODEL, MODEL, CLEAR, KERNEL, MPC_CORE, MPC],
        packages: &["sprint-clear", "sprint-mpc"],
    },
    Kind { name: "PROVISION", sources: &["stages/src/provision.rs", FLEET], packages: &[] },
    Kind {
        name: "INFER_CLEAR",
        sources: &["stages/src/infer_clear.rs", DATASET, GLUE, PREDICTIONS, STORED_MODEL, MODEL, CLEAR, TRAIN],
        packages: &["sprint-clear", "sprint-train"],
    },
    Kind {
        name: "INFER_MPC",
        sources: &["stages/src/infer_mpc", FLEET, SHARE, DATASET, GLUE, PREDICTIONS, COST, MODEL, CLEAR, KERNEL, MPC_CORE, MPC],
        packages: &["sprint-clear", "sprint-mpc"],
    },
    Kind { name: "METRICS", sources: &["stages/src/metrics", GLUE, PREDICTIONS, PRIVACY, COST], packages: &["plotters"] },
];

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let locked = Locked::read(&lock);
    let mut out = String::new();
    for kind in KINDS {
        let digest = digest(&root, kind, &locked)?;
        out.push_str(&format!("pub(crate) const {}: &str = \"b3:{digest}\";\n", kind.name));
    }
    let to = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("code.rs");
    fs::write(to, out)
}

fn digest(root: &Path, kind: &Kind, locked: &Locked<'_>) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("sprint-flow code digest v1");
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let mut files = BTreeMap::new();
    for source in STAGE.iter().chain(kind.sources) {
        println!("cargo:rerun-if-changed=../{source}");
        collect(root, source, &mut files)?;
    }
    for (name, path) in files {
        field(name.as_bytes());
        field(&fs::read(path)?);
    }
    for package in locked.closure(kind.packages) {
        field(package.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The Rust sources at or below `source`; what only tests see is left out.
fn collect(root: &Path, source: &str, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    let path = root.join(source);
    if path.is_dir() {
        for entry in fs::read_dir(&path)? {
            let name = entry?.file_name();
            let name = name.to_str().expect("sources have ASCII names");
            if !["tests", "tests.rs", "faults.rs", "testing.rs"].contains(&name) {
                collect(root, &format!("{source}/{name}"), files)?;
            }
        }
    } else if path.extension().is_some_and(|e| e == "rs") {
        files.insert(source.to_owned(), path);
    }
    Ok(())
}

/// The packages of `Cargo.lock`: `name version` with what each depends on.
struct Locked<'a> {
    packages: BTreeMap<&'a str, Vec<Package<'a>>>,
}

struct Package<'a> {
    version: &'a str,
    checksum: &'a str,
    dependencies: Vec<&'a str>,
}

impl<'a> Locked<'a> {
    fn read(lock: &'a str) -> Self {
        let mut packages: BTreeMap<&str, Vec<Package<'_>>> = BTreeMap::new();
        for block in lock.split("[[package]]").skip(1) {
            let value = |key: &str| {
                let line = block.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(" = "));
                line.map_or("", |v| v.trim_matches('"'))
            };
            let list =
                block.split_once("dependencies = [").and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
            let dependencies = list.split(',').map(|d| d.trim().trim_matches('"')).filter(|d| !d.is_empty()).collect();
            let package = Package { version: value("version"), checksum: value("checksum"), dependencies };
            packages.entry(value("name")).or_default().push(package);
        }
        Self { packages }
    }

    /// `name version checksum` of everything reachable from these packages.
    fn closure(&self, roots: &[&'a str]) -> BTreeSet<String> {
        let (mut seen, mut all) = (BTreeSet::new(), BTreeSet::new());
        let mut next: Vec<&str> = roots.to_vec();
        while let Some(dependency) = next.pop() {
            if !seen.insert(dependency) {
                continue;
            }
            // "name", or "name version" where several versions are locked.
            let (name, version) = dependency.split_once(' ').map_or((dependency, None), |(n, rest)| (n, rest.split(' ').next()));
            for package in self.packages.get(name).into_iter().flatten() {
                if version.is_none_or(|v| v == package.version) {
                    all.insert(format!("{name} {} {}", package.version, package.checksum));
                    next.extend(&package.dependencies);
                }
            }
        }
        all
    }
}
