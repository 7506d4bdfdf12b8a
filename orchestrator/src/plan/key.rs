//! The action key: what an action is, apart from where, when and how often it runs.
//!
//! ```text
//! key      = BLAKE3.derive_key("sprint-flow action-key v1", canonical CBOR of the preimage)
//! preimage = {schema, kind, kind_version, code_digest, params, seed, inputs, env, secrets, salt}
//! inputs   = {port: digest}                                       one artifact
//!          | {port: [{axes: {axis: value}, artifact: digest}]}    a gathering port, sorted by axes
//! ```
//!
//! In the key is what can change bytes. Outside are the stage's name, resources, retry, timeout, paths, times and hosts.
//! `seed` is the parameter of that name, set apart so that `explain` can say "another seed". `env` holds the variables a kind declares
//! to change its bytes; no kind does at present.
//!
//! **Identity of outputs that differ each time.** A producer with [`CachePolicy::Never`](sprint_stage_api::CachePolicy) (fresh shares, a
//! lease) gives other bytes whenever it runs. Its consumers' keys hold, instead of a digest of those bytes,
//!
//! ```text
//! identity = BLAKE3.derive_key("sprint-flow output-identity v1", canonical CBOR of {key, output})
//! ```
//!
//! so a consumer is a hit when the same model was shared before, although the shares themselves were fresh.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use sprint_artifacts::{ActionKey, Digest, Value};
use sprint_stage_api::StageSpec;

/// The version of the preimage's structure.
const SCHEMA: u32 = 1;
/// The domain of [`output_identity`].
const IDENTITY_CONTEXT: &str = "sprint-flow output-identity v1";

/// One artifact as the key sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyedInput {
    pub(crate) axes: BTreeMap<String, String>,
    pub(crate) identity: Digest,
}

/// What goes into a key.
pub(crate) struct KeyParts<'a> {
    pub(crate) spec: &'a StageSpec,
    pub(crate) params: &'a Json,
    pub(crate) inputs: BTreeMap<&'a str, Vec<KeyedInput>>,
    pub(crate) secrets: &'a [String],
    pub(crate) salt: &'a str,
}

/// A key with everything it was made from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Keyed {
    pub(crate) key: ActionKey,
    pub(crate) preimage: Value,
}

impl KeyParts<'_> {
    /// The key. Every number of the parameters has an exact form: loading a workflow checks it.
    pub(crate) fn key(self) -> Keyed {
        let mut params = Value::from_json(self.params).expect("loading a workflow checks that its numbers are exact");
        let seed = match &mut params {
            Value::Map(map) => map.remove("seed").unwrap_or(Value::Null),
            _ => Value::Null,
        };
        let inputs = self.inputs.into_iter().map(|(port, artifacts)| {
            let gathers = self.spec.inputs.iter().any(|p| p.name == port && p.gather);
            (port, if gathers { table(artifacts) } else { single(&artifacts) })
        });
        let mut secrets = self.secrets.to_vec();
        secrets.sort();
        let preimage = Value::map([
            ("schema", Value::from(SCHEMA)),
            ("kind", self.spec.kind.into()),
            ("kind_version", self.spec.version.into()),
            ("code_digest", self.spec.code_digest.into()),
            ("params", params),
            ("seed", seed),
            ("inputs", Value::map(inputs)),
            ("env", Value::Map(BTreeMap::new())),
            ("secrets", Value::Array(secrets.into_iter().map(Value::from).collect())),
            ("salt", self.salt.into()),
        ]);
        Keyed { key: ActionKey::of(&preimage), preimage }
    }
}

fn single(artifacts: &[KeyedInput]) -> Value {
    artifacts.first().map_or(Value::Null, |a| a.identity.into())
}

fn table(mut artifacts: Vec<KeyedInput>) -> Value {
    artifacts.sort_by(|a, b| (&a.axes, a.identity).cmp(&(&b.axes, b.identity)));
    let row = |a: KeyedInput| {
        let axes = Value::map(a.axes.into_iter().map(|(axis, value)| (axis, Value::from(value))));
        Value::map([("axes", axes), ("artifact", a.identity.into())])
    };
    Value::Array(artifacts.into_iter().map(row).collect())
}

/// The identity of an output whose bytes differ each time its producer runs.
pub(crate) fn output_identity(key: &ActionKey, output: &str) -> Digest {
    let value = Value::map([("key", Value::from(*key.digest())), ("output", output.into())]);
    Digest::derived(IDENTITY_CONTEXT, &value.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use sprint_artifacts::Secrecy;
    use sprint_stage_api::{CachePolicy, Effect, InputPort, OutputPort};

    fn spec() -> StageSpec {
        let port = |name, gather| InputPort { name, artifact: "dataset", optional: false, gather };
        StageSpec {
            kind: "toy",
            version: 1,
            about: "",
            inputs: vec![port("data", false), port("rows", true)],
            outputs: vec![OutputPort { name: "out", artifact: "dataset", secrecy: Secrecy::Public }],
            effect: Effect::Pure,
            cache: CachePolicy::Always,
            code_digest: "code",
            params_schema: json!({}),
        }
    }

    fn row(epsilon: &str, bytes: &[u8]) -> KeyedInput {
        KeyedInput { axes: [("epsilon".to_owned(), epsilon.to_owned())].into(), identity: Digest::of(bytes) }
    }

    fn key_of(spec: &StageSpec, params: &Json) -> ActionKey {
        let one = KeyedInput { axes: BTreeMap::new(), identity: Digest::of(b"data") };
        let inputs = [("data", vec![one]), ("rows", vec![row("8", b"a"), row("4", b"b")])].into();
        KeyParts { spec, params, inputs, secrets: &["dp_noise_key".to_owned()], salt: "" }.key().key
    }

    #[test]
    fn frozen_vectors_hold_across_builds() {
        let params = json!({"epsilon": "8", "lr": 0.001, "epochs": 3, "seed": 7, "private": true, "note": null, "list": [1, -2]});
        let identity = output_identity(&ActionKey::new(Digest::of(b"key")), "shares");
        let found = [key_of(&spec(), &params).to_string(), key_of(&spec(), &json!({})).to_string(), identity.to_string()];
        let frozen = [
            "b3:fc6b58dc8851e582e304026a962e6e22efca89016e668573b59307f4f23d31db",
            "b3:6ee617cf8cb90cb8de6635f3b0b8316dd973aa397db8bebf06552e936dacb7cb",
            "b3:8f5a5f323365279eafe216e303bbd87b15060bff74b9cf2802ca2b8875e6144c",
        ];
        assert_eq!(found, frozen);
    }

    #[test]
    fn every_ingredient_is_in_the_key() {
        let base = key_of(&spec(), &json!({"a": 1}));
        let changed = [
            key_of(&StageSpec { version: 2, ..spec() }, &json!({"a": 1})),
            key_of(&StageSpec { code_digest: "other", ..spec() }, &json!({"a": 1})),
            key_of(&StageSpec { kind: "other", ..spec() }, &json!({"a": 1})),
            key_of(&spec(), &json!({"a": 1.0})),
            key_of(&spec(), &json!({"a": "1"})),
            key_of(&spec(), &json!({"a": 1, "seed": 1})),
            KeyParts { spec: &spec(), params: &json!({"a": 1}), inputs: BTreeMap::new(), secrets: &[], salt: "" }.key().key,
            KeyParts { spec: &spec(), params: &json!({"a": 1}), inputs: BTreeMap::new(), secrets: &[], salt: "x" }.key().key,
        ];
        let mut all: Vec<_> = changed.iter().chain([&base]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 9);
    }

    #[test]
    fn a_table_is_a_set_of_rows_and_its_axes_count() {
        let key = |rows: Vec<KeyedInput>| {
            KeyParts { spec: &spec(), params: &json!({}), inputs: [("rows", rows)].into(), secrets: &[], salt: "" }.key().key
        };
        let forwards = key(vec![row("4", b"a"), row("8", b"b")]);
        assert_eq!(forwards, key(vec![row("8", b"b"), row("4", b"a")]));
        assert_ne!(forwards, key(vec![row("4", b"b"), row("8", b"a")]));
    }

    proptest! {
        #[test]
        fn the_order_of_parameters_does_not_matter_and_their_values_do(
            entries in prop::collection::btree_map("[a-z]{1,5}", any::<i32>(), 1..8), pick in any::<prop::sample::Index>(),
        ) {
            let forwards: Json = entries.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<serde_json::Map<_, _>>().into();
            let backwards: Json = entries.iter().rev().map(|(k, v)| (k.clone(), json!(v))).collect::<serde_json::Map<_, _>>().into();
            let key = key_of(&spec(), &forwards);
            prop_assert_eq!(key, key_of(&spec(), &backwards));
            let mut changed = entries.clone();
            let name = pick.get(&entries.keys().cloned().collect::<Vec<_>>()).clone();
            changed.insert(name.clone(), changed[&name].wrapping_add(1));
            prop_assert_ne!(key, key_of(&spec(), &serde_json::to_value(&changed).unwrap()));
        }
    }
}
