//! Values from elsewhere: `use:` pulls a typed fragment into params, `--set` changes a value for one run.
//!
//! A mapping under `params` (the workflow's or a stage's, at any depth) may say `use: FILE` or `use: [FILE, …]`. Each file holds one
//! mapping; later files override earlier ones, and the keys beside `use` override them all. Mappings merge key by key, anything else
//! is replaced. Files are named relative to the file that names them first, the workflow; a fragment uses no further fragments.
//!
//! `--set PATH=VALUE` reads VALUE as YAML. PATH is a parameter (`model`, `train.epochs`), an axis (`epsilon`), or a full path
//! (`limits.cpu`, `stages.finetune.params.epochs`). A parameter or axis that the workflow does not declare is an error.

use crate::diagnostic::{Problem, SourceId, Sources, Span, suggest};
use crate::workflow::fields;
use crate::workflow::yaml::{self, Entry, Node, Value};

/// Reads a fragment by the name it has in the workflow.
pub(crate) type ReadFragment<'r> = dyn FnMut(&str) -> Result<String, String> + 'r;

/// Replaces every `use:` under a `params` of the document.
pub(crate) fn expand_fragments(root: &mut Node, sources: &mut Sources, read: &mut ReadFragment<'_>) -> Vec<Problem> {
    let mut fragments = Fragments { sources, read, problems: Vec::new() };
    if let Some(params) = root.entry_mut("params") {
        fragments.expand(&mut params.value);
    }
    if let Some(Entry { value: Node { value: Value::Map(stages), .. }, .. }) = root.entry_mut("stages") {
        for stage in stages {
            if let Some(params) = stage.value.entry_mut("params") {
                fragments.expand(&mut params.value);
            }
        }
    }
    fragments.problems
}

struct Fragments<'a, 'r> {
    sources: &'a mut Sources,
    read: &'a mut ReadFragment<'r>,
    problems: Vec<Problem>,
}

impl Fragments<'_, '_> {
    fn expand(&mut self, node: &mut Node) {
        let Value::Map(entries) = &mut node.value else { return };
        for e in entries.iter_mut().filter(|e| e.key != "use") {
            self.expand(&mut e.value);
        }
        let Some(at) = entries.iter().position(|e| e.key == "use") else { return };
        let own = entries.split_off(at);
        let mut own = own.into_iter();
        let wanted = own.next().expect("the entry at `at`").value;
        let mut kept = std::mem::take(entries);
        kept.extend(own);
        let mut merged = Vec::new();
        for (file, span) in self.files(&wanted) {
            if let Some(fragment) = self.fragment(&file, span) {
                merge(&mut merged, fragment);
            }
        }
        merge(&mut merged, kept);
        *entries = merged;
    }

    fn files(&mut self, node: &Node) -> Vec<(String, Span)> {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut files = Vec::new();
        for n in items {
            match &n.value {
                Value::String(file) => files.push((file.clone(), n.span)),
                _ => self.problems.push(Problem::new("config::use", n.span, format!("`use` names files, not {}", n.type_name()))),
            }
        }
        files
    }

    fn fragment(&mut self, file: &str, span: Span) -> Option<Vec<Entry>> {
        let text = match (self.read)(file) {
            Ok(text) => text,
            Err(why) => {
                self.problems.push(
                    Problem::new("config::use", span, format!("cannot read `{file}`: {why}"))
                        .help("files are named relative to the workflow file"),
                );
                return None;
            }
        };
        let source = self.sources.add(file, text.as_str());
        let node = yaml::parse(source, &text, &mut self.problems)?;
        match node.value {
            Value::Map(entries) => {
                for e in entries.iter().filter(|e| e.key == "use") {
                    self.problems.push(
                        Problem::new("config::use", e.key_span, "a fragment uses no further fragments")
                            .help("list both files in the workflow: `use: [a.yaml, b.yaml]`"),
                    );
                }
                Some(entries)
            }
            Value::Null => Some(Vec::new()),
            _ => {
                let message = format!("a fragment holds a mapping, not {}", node.type_name());
                self.problems.push(Problem::new("config::use", node.span, message));
                None
            }
        }
    }
}

/// Lays `over` on `base`, key by key.
fn merge(base: &mut Vec<Entry>, over: Vec<Entry>) {
    for entry in over {
        let Some(below) = base.iter_mut().find(|b| b.key == entry.key) else {
            base.push(entry);
            continue;
        };
        match (&mut below.value.value, entry.value.value) {
            (Value::Map(inner), Value::Map(new)) => merge(inner, new),
            (_, value) => {
                below.value = Node { span: entry.value.span, value };
                below.key_span = entry.key_span;
            }
        }
    }
}

/// Applies one `PATH=VALUE`.
pub(crate) fn apply_set(root: &mut Node, arg: &str, sources: &mut Sources) -> Vec<Problem> {
    let source = sources.add("--set", arg);
    let everything = Span::new(source, 0..arg.len());
    let Some((path, _)) = arg.split_once('=') else {
        let problem = Problem::new("config::set", everything, format!("`{arg}` is not of the form NAME=VALUE"));
        return vec![problem.help("for example `--set epochs=3` or `--set 'tasks=[rte]'`")];
    };
    let key_span = Span::new(source, 0..path.len());
    let mut problems = Vec::new();
    let value = yaml::parse_from(source, arg, path.len() + 1, &mut problems);
    let steps: Vec<&str> = path.trim().split('.').collect();
    match (place(root, &steps, source), value) {
        (Ok(full), Some(value)) => problems.extend(put(root, &full, key_span, value).err()),
        (Ok(_), None) => {}
        (Err(problem), _) => problems.push(problem),
    }
    problems
}

/// The full path of what a `--set` path names.
fn place(root: &Node, steps: &[&str], source: SourceId) -> Result<Vec<String>, Problem> {
    let first = steps[0];
    let under = |area: &str| {
        let path = std::iter::once(area).chain(steps.iter().copied());
        path.map(str::to_owned).collect::<Vec<_>>()
    };
    if root.get("params").and_then(|p| p.get(first)).is_some() {
        return Ok(under("params"));
    }
    if steps.len() == 1 && root.get("matrix").and_then(|m| m.get(first)).is_some() {
        return Ok(under("matrix"));
    }
    if steps.len() > 1 && ["params", "matrix", "limits", "stages"].contains(&first) {
        return Ok(steps.iter().map(|s| (*s).to_owned()).collect());
    }
    let keys = ["params", "matrix"].iter().filter_map(|area| root.get(area)).flat_map(keys_of);
    let span = Span::new(source, 0..first.len());
    Err(Problem::new("config::set_unknown", span, format!("the workflow has no parameter or axis `{first}`"))
        .maybe_help(suggest(first, keys)))
}

fn keys_of(node: &Node) -> impl Iterator<Item = &str> {
    let entries: &[Entry] = match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    };
    entries.iter().map(|e| e.key.as_str())
}

/// Whether a key that is not there yet may be added at the end of `path`.
fn may_add(path: &[String]) -> bool {
    match path {
        [limits, key] if limits == "limits" => fields::LIMITS.iter().any(|f| f.name == key),
        [stages, _, key] if stages == "stages" => fields::STAGE.iter().any(|f| f.name == key),
        [stages, _, _, ..] => stages == "stages",
        _ => false,
    }
}

fn put(root: &mut Node, path: &[String], key_span: Span, value: Node) -> Result<(), Problem> {
    let mut node = root;
    for (depth, step) in path.iter().enumerate() {
        let last = depth + 1 == path.len();
        if matches!(node.value, Value::Null) {
            node.value = Value::Map(Vec::new());
        }
        let exists = node.entry(step).is_some();
        let open = depth == 0 || may_add(&path[..=depth]);
        let Value::Map(entries) = &mut node.value else {
            let message = format!("`{}` is no mapping, so it has no `{step}`", path[..depth].join("."));
            return Err(Problem::new("config::set_unknown", key_span, message));
        };
        if !exists {
            if !open {
                let help = suggest(step, entries.iter().map(|e| e.key.as_str()));
                let message = format!("`{}` has no `{step}`", path[..depth].join("."));
                return Err(Problem::new("config::set_unknown", key_span, message).maybe_help(help));
            }
            let empty = Node { span: key_span, value: Value::Map(Vec::new()) };
            entries.push(Entry { key: step.clone(), key_span, value: empty });
        }
        let entry = entries.iter_mut().find(|e| e.key == *step).expect("just made sure");
        if last {
            entry.key_span = key_span;
            entry.value = value;
            return Ok(());
        }
        node = &mut entry.value;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn load(text: &str, fragments: &[(&str, &str)], sets: &[&str]) -> Result<serde_json::Value, Vec<String>> {
        let mut sources = Sources::default();
        let id = sources.add("w.yaml", text);
        let mut root = yaml::parse(id, text, &mut Vec::new()).unwrap();
        let mut read = |file: &str| {
            let found = fragments.iter().find(|(name, _)| *name == file);
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "no such file".to_owned())
        };
        let mut problems = expand_fragments(&mut root, &mut sources, &mut read);
        for set in sets {
            problems.extend(apply_set(&mut root, set, &mut sources));
        }
        if problems.is_empty() { Ok(root.to_json()) } else { Err(problems.into_iter().map(|p| p.message).collect()) }
    }

    #[test]
    fn own_keys_override_fragments_and_later_fragments_earlier_ones() {
        let text = "params: {train: {use: [a.yaml, b.yaml], epochs: 3}}";
        let fragments = [("a.yaml", "epochs: 1\nlora: {rank: 4, alpha: 8}\n"), ("b.yaml", "lora: {rank: 16}\nlr: 1\n")];
        let got = load(text, &fragments, &["train.lora.alpha=32"]).unwrap();
        assert_eq!(got["params"]["train"], json!({"epochs": 3, "lora": {"rank": 16, "alpha": 32}, "lr": 1}));
    }

    #[test]
    fn set_reaches_params_axes_and_full_paths() {
        let text = "params: {tasks: [sst2, rte], model: x}\nmatrix: {epsilon: ['1', '8']}\nstages: {fit: {kind: f}}";
        let sets = ["tasks=[rte]", "epsilon=[\"8\"]", "model=hf://a/b", "stages.fit.params.lr.peak=0.5", "limits.cpu=1"];
        let got = load(text, &[], &sets).unwrap();
        assert_eq!(got["params"], json!({"tasks": ["rte"], "model": "hf://a/b"}));
        assert_eq!(got["matrix"], json!({"epsilon": ["8"]}));
        assert_eq!(got["stages"]["fit"]["params"], json!({"lr": {"peak": 0.5}}));
        assert_eq!(got["limits"], json!({"cpu": 1}));
    }

    #[test]
    fn unknown_names_and_files_are_refused() {
        let text = "params: {tasks: [sst2], deep: {a: 1}}\nstages: {fit: {kind: f, params: {use: no.yaml}}}";
        let sets = ["taks=[rte]", "deep.b=1", "tasks.x=1", "stages.fti.cache=never", "stages.fit.cahce=never", "plain"];
        let got = load(text, &[], &sets).unwrap_err();
        assert_eq!(got.len(), 7, "{got:#?}");
    }
}
