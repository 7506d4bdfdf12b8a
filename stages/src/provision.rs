//! `provision@1`: the machines that a private inference runs on. This build has one fleet: three processes of this machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sprint_artifacts::{Manifest, Secrecy};
use sprint_stage_api::{CachePolicy, Effect, OutputPort, ParamProblem, Stage, StageContext, StageError, StageOutputs, StageSpec};

use crate::errors::store_error;
use crate::params::{self, Params};

/// Parameters of `provision@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProvisionParams {
    /// Where dealer, party 0 and party 1 run.
    #[serde(default)]
    fleet: FleetKind,
}

/// Where the roles run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FleetKind {
    /// Three processes of this machine, over TLS on the loopback interface. A test of the system, not a deployment: whoever
    /// owns the machine sees both shares.
    #[default]
    Local,
    /// Network namespaces with shaped links.
    Netns,
    /// Machines reached by SSH.
    Ssh,
    /// Amazon EC2.
    Ec2,
}

impl Params for ProvisionParams {
    fn check(&self, problems: &mut Vec<ParamProblem>) {
        if self.fleet != FleetKind::Local {
            let message = "only fleet: local is in this build; netns, ssh and ec2 are not built yet";
            problems.push(ParamProblem::new(&["fleet"], message).help("write fleet: local"));
        }
    }
}

/// The stage.
pub(crate) struct Provision {
    spec: StageSpec,
}

impl Provision {
    pub(crate) fn new() -> Self {
        let spec = StageSpec {
            kind: "provision",
            version: 1,
            about: "Provides the machines for the dealer and the two parties.",
            inputs: Vec::new(),
            outputs: vec![OutputPort { name: "hosts", artifact: "hosts", secrecy: Secrecy::Public }],
            effect: Effect::Lease,
            cache: CachePolicy::Never,
            code_digest: crate::code::PROVISION,
            params_schema: params::schema::<ProvisionParams>(),
        };
        Self { spec }
    }
}

impl Stage for Provision {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        params::normalise::<ProvisionParams>(params)
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let role = |name: &str| json!({"role": name, "place": "child process", "address": "127.0.0.1"});
        let hosts = json!({"version": 1, "fleet": "local", "roles": [role("party-0"), role("party-1"), role("dealer")]});
        let builder = Manifest::builder("hosts@1", Secrecy::Public).bytes("hosts.json", hosts.to_string());
        let (id, _) = ctx.store().put_artifact(builder).map_err(store_error)?;
        Ok(StageOutputs::new().with("hosts", id))
    }

    // The processes live inside the inference stage and end with it: there is nothing left to release.
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[test]
    fn the_local_fleet_has_three_roles() {
        let bench = Bench::new();
        let outputs = bench.run(&Provision::new(), &json!({})).expect("runs");
        let (_, files) = bench.output(&outputs, "hosts");
        let hosts: Value = serde_json::from_slice(&files["hosts.json"]).expect("JSON");
        assert_eq!(hosts["roles"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn fleets_that_are_not_built_are_refused_before_the_run() {
        let problems = Provision::new().normalise(&json!({"fleet": "ec2"})).expect_err("not built");
        assert_eq!(problems[0].path, ["fleet"]);
        assert!(problems[0].message.contains("local"));
    }
}
