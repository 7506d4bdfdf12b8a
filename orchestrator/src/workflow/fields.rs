//! The keys of a workflow file: one table that the reader checks against and the editor's JSON Schema is made from.

use serde_json::{Value, json};

/// A key of a mapping.
pub(crate) struct Field {
    /// As written.
    pub(crate) name: &'static str,
    /// For the editor.
    pub(crate) about: &'static str,
    /// The JSON Schema of its value.
    pub(crate) schema: fn() -> Value,
}

const fn field(name: &'static str, about: &'static str, schema: fn() -> Value) -> Field {
    Field { name, about, schema }
}

fn string() -> Value {
    json!({"type": "string"})
}

fn names() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn whole() -> Value {
    json!({"type": "integer", "minimum": 1})
}

fn natural() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn dollars() -> Value {
    json!({"type": "number", "minimum": 0})
}

fn duration() -> Value {
    json!({"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$", "examples": ["90s", "10m", "72h"]})
}

fn backoff() -> Value {
    let one = "([0-9]+(ms|s|m|h|d))+";
    json!({"type": "string", "pattern": format!("^{one}(\\.\\.{one})?$"), "examples": ["30s..10m"]})
}

fn size() -> Value {
    json!({"type": ["string", "integer"], "pattern": "^[0-9]+ ?([kKMGT]B|[KMGT]iB|B)?$", "examples": ["512MiB", "16GiB"]})
}

fn params() -> Value {
    json!({"type": "object", "properties": {"use": {"type": ["string", "array"], "items": {"type": "string"},
        "description": "YAML fragments, relative to this file, whose keys are defaults for the ones given here"}}})
}

fn executor() -> Value {
    let mut mapping = object(EXECUTOR);
    mapping["required"] = json!(["slurm"]);
    json!({"anyOf": [{"enum": super::placement::NAMES.iter().map(|(n, _)| *n).collect::<Vec<_>>()}, mapping]})
}

fn object(fields: &[Field]) -> Value {
    let properties = fields.iter().map(|f| {
        let mut schema = (f.schema)();
        schema["description"] = f.about.into();
        (f.name.to_owned(), schema)
    });
    json!({"type": "object", "additionalProperties": false, "properties": properties.collect::<serde_json::Map<_, _>>()})
}

pub(crate) const WORKFLOW: &[Field] = &[
    field("sprint-flow", "The version of this format.", || json!({"const": 1})),
    field("name", "The workflow's name in reports.", string),
    field("params", "Values that stages refer to as ${params.NAME} and `--set NAME=VALUE` changes.", params),
    field("matrix", "Axes: every stage `over` an axis runs once for each value.", || {
        let values = json!([{"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1},
            {"type": "string", "pattern": "^\\$\\{params\\.[^}]+\\}$"}]);
        json!({"type": "object", "additionalProperties": {"anyOf": values}})
    }),
    field("limits", "What the stages running at once may use together.", || object(LIMITS)),
    field(
        "remote",
        "Where results are kept for other machines: `s3://bucket/prefix`, or a mapping.",
        || json!({"anyOf": [{"type": "string", "pattern": "^s3://"}, object(REMOTE)]}),
    ),
    field("executor", "Where stages run that say nothing else: here, or as jobs of a cluster.", executor),
    field("stages", "The stages by name.", || json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/stage"}})),
];

pub(crate) const REMOTE: &[Field] = &[
    field("url", "`s3://bucket/prefix`.", string),
    field("endpoint", "The address of a service other than AWS that speaks S3.", string),
    field("region", "The service's region.", string),
    field("recipients", "age public keys that secrets are sealed to; without one, secrets stay on the machine.", names),
    field("identity", "The file with the age secret key that opens them, where it is at hand.", string),
];

pub(crate) const LIMITS: &[Field] =
    &[field("cpu", "Processor threads.", whole), field("mem", "Memory.", size), field("max_usd", "Dollars.", dollars)];

pub(crate) const STAGE: &[Field] = &[
    field("kind", "What it runs: `kind@version`.", string),
    field("over", "The axes it runs once per value of.", names),
    field("inputs", "Per port `stage.output`, or `{gather: stage.output}` for a table over the producer's other axes.", || {
        let one = json!({"type": "string", "pattern": "^[^.]+\\.[^.]+$"});
        let many =
            json!({"type": "object", "required": ["gather"], "additionalProperties": false, "properties": {"gather": one}});
        json!({"type": "object", "additionalProperties": {"anyOf": [one, many]}})
    }),
    field("params", "The kind's own parameters; scalars may refer to ${params.NAME} and ${matrix.AXIS}.", params),
    field("needs", "Stages that must have finished first although nothing of theirs is read.", names),
    field(
        "cache",
        "When an earlier result stands in: always, measure (same run only) or never.",
        || json!({"enum": ["always", "measure", "never"]}),
    ),
    field("resources", "What it uses while it runs.", || object(RESOURCES)),
    field("retry", "When a failed attempt is followed by another.", || object(RETRY)),
    field("timeout", "Longest time of one attempt.", duration),
    field("mutex", "Names of which only one stage at a time holds each.", names),
    field("checkpoint", "How often progress is saved inside the stage.", || object(CHECKPOINT)),
    field("lease", "How long machines may be held and what they may cost.", || object(LEASE)),
    field("secrets", "Secrets it needs: the names enter the key, the values never.", names),
    field("executor", "Where it runs; options given here go before those of the workflow.", executor),
];

pub(crate) const EXECUTOR: &[Field] =
    &[field("slurm", "As jobs of a Slurm cluster that shares the store's folder.", || object(SLURM))];

pub(crate) const SLURM: &[Field] = &[
    field("partition", "The partition.", string),
    field("account", "The account that is charged.", string),
    field("qos", "The quality of service.", string),
    field("constraint", "Features that a node must have.", string),
    field("time", "Time limit of a job; without one, the stage's timeout and a little more, or the partition's.", duration),
    field("options", "Further options of sbatch, such as `--gres=gpu:1`.", names),
];

pub(crate) const GATHER: &[Field] = &[field("gather", "The `stage.output` collected over its other axes.", string)];

pub(crate) const RESOURCES: &[Field] = &[field("cpu", "Processor threads.", whole), field("mem", "Memory.", size)];

pub(crate) const RETRY: &[Field] = &[
    field("max", "Attempts after the first.", natural),
    field("backoff", "Shortest and longest wait before the next attempt.", backoff),
    field(
        "on",
        "Failures worth another attempt.",
        || json!({"type": "array", "items": {"enum": crate::exec::RetryOn::NAMES.iter().map(|(n, _)| *n).collect::<Vec<_>>()}}),
    ),
];

pub(crate) const CHECKPOINT: &[Field] =
    &[field("every", "Wished time between bundles.", duration), field("keep", "Bundles kept.", whole)];

pub(crate) const LEASE: &[Field] = &[
    field("ttl", "Given up after this long in any case.", duration),
    field("idle", "Given up after this long without use.", duration),
    field("keep_on_failure", "Held this long after a failure.", duration),
    field("max_usd", "Dollars.", dollars),
];

/// The JSON Schema of a workflow file; `kinds` are name, version, description and params schema of every registered kind.
pub(crate) fn json_schema(kinds: &[(&str, u32, &str, &Value)]) -> Value {
    let mut stage = object(STAGE);
    let mut definitions = serde_json::Map::new();
    stage["required"] = json!(["kind"]);
    let spellings =
        kinds.iter().flat_map(|(name, version, about, _)| [(format!("{name}@{version}"), *about), ((*name).to_owned(), *about)]);
    let mut spellings: Vec<Value> = spellings.map(|(k, about)| json!({"const": k, "description": about})).collect();
    spellings.dedup();
    stage["properties"]["kind"] = json!({"description": "What it runs.", "oneOf": spellings});
    stage["allOf"] = kinds
        .iter()
        .map(|(name, version, _, params)| {
            let newest = kinds.iter().filter(|(n, ..)| n == name).map(|(_, v, ..)| v).max() == Some(version);
            let mut spelled = vec![format!("{name}@{version}")];
            spelled.extend(newest.then(|| (*name).to_owned()));
            let params = with_references(&lift_definitions(params, &format!("{name}@{version}"), &mut definitions));
            json!({"if": {"properties": {"kind": {"enum": spelled}}}, "then": {"properties": {"params": params}}})
        })
        .collect();
    let mut root = object(WORKFLOW);
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "sprint-flow workflow".into();
    root["required"] = json!(["sprint-flow", "stages"]);
    definitions.insert("stage".to_owned(), stage);
    root["$defs"] = definitions.into();
    root
}

/// Moves the `$defs` of a kind's schema to the root, under names of its own, and turns its references to them.
fn lift_definitions(params: &Value, owner: &str, root: &mut serde_json::Map<String, Value>) -> Value {
    let mut params = params.clone();
    let own = params.as_object_mut().and_then(|o| o.remove("$defs"));
    turn_references(&mut params, owner);
    if let Some(Value::Object(own)) = own {
        for (name, mut definition) in own {
            turn_references(&mut definition, owner);
            root.insert(format!("{owner}.{name}"), definition);
        }
    }
    params
}

fn turn_references(schema: &mut Value, owner: &str) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().and_then(|r| r.strip_prefix("#/$defs/")).filter(|_| key == "$ref") {
                    Some(name) => *value = format!("#/$defs/{owner}.{name}").into(),
                    None => turn_references(value, owner),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|i| turn_references(i, owner)),
        _ => {}
    }
}

/// Lets every value of a kind's params also be a `${…}` string, and `use` stand beside them.
fn with_references(params: &Value) -> Value {
    let mut schema = params.clone();
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return schema };
    for value in properties.values_mut() {
        *value = json!({"anyOf": [value.take(), {"type": "string", "pattern": "\\$\\{(params|matrix)\\."}]});
    }
    properties.insert("use".to_owned(), params_use());
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
        // A fragment may supply what the kind requires.
        object.remove("required");
    }
    schema
}

fn params_use() -> Value {
    params()["properties"]["use"].clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_kinds_move_to_the_root_with_their_references() {
        let params = json!({"type": "object", "properties": {"lora": {"$ref": "#/$defs/Lora"}},
            "$defs": {"Lora": {"properties": {"next": {"$ref": "#/$defs/Lora"}}}}});
        let schema = json_schema(&[("finetune", 1, "Trains.", &params)]);
        assert_eq!(schema["$defs"]["finetune@1.Lora"]["properties"]["next"]["$ref"], "#/$defs/finetune@1.Lora");
        let lora = &schema["$defs"]["stage"]["allOf"][0]["then"]["properties"]["params"]["properties"]["lora"];
        assert_eq!(lora["anyOf"][0]["$ref"], "#/$defs/finetune@1.Lora");
    }
}
