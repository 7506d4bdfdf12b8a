//! All kinds of stage, and the main function of an MPC role.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use sprint_mpc::{Role, gate_role_main};
use sprint_stage_api::{Registry, Stage};

use crate::calibrate::Calibrate;
use crate::download::Download;
use crate::finetune::Finetune;
use crate::infer_clear::InferClear;
use crate::infer_mpc::InferMpc;
use crate::metrics::Metrics;
use crate::provision::Provision;
use crate::share::Share;
use crate::share_three::ShareThree;
use crate::tokenize::Tokenize;
use crate::{CloudFleet, RoleProgram};

/// Every kind; MPC roles are the running program with the argument `mpc-role`.
pub fn registry() -> Registry {
    registry_with(RoleProgram::default(), None)
}

/// Every kind, with MPC roles started as `program` says, and machines of a cloud from `cloud`.
pub fn registry_with(program: RoleProgram, cloud: Option<Arc<dyn CloudFleet>>) -> Registry {
    let kinds: [Arc<dyn Stage>; 10] = [
        Arc::new(Download::new()),
        Arc::new(Tokenize::new()),
        Arc::new(Finetune::new()),
        Arc::new(Calibrate::new()),
        Arc::new(Share::new()),
        Arc::new(ShareThree::new()),
        Arc::new(Provision::new(cloud)),
        Arc::new(InferClear::new()),
        Arc::new(InferMpc::new(program)),
        Arc::new(Metrics::new()),
    ];
    let mut registry = Registry::new();
    for kind in kinds {
        registry.register(kind).expect("the kinds above have different names");
    }
    registry
}

/// Runs the MPC role of this name (`party-0`, `party-1`, `dealer`, `party-2`) to its end; `None` if there is no such role.
pub fn mpc_role(name: &str, stdin: impl Read + Send + 'static, stdout: impl Write + Send + 'static) -> Option<ExitCode> {
    let role = Role::ALL.into_iter().find(|role| role.name() == name)?;
    Some(gate_role_main(role, stdin, stdout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_declares_a_digest_of_its_own_code_and_a_schema() {
        let registry = registry();
        let digests: BTreeSet<_> = registry.iter().map(|s| s.spec().code_digest).collect();
        assert_eq!((registry.iter().count(), digests.len()), (10, 10));
        for stage in registry.iter() {
            let spec = stage.spec();
            assert!(spec.code_digest.starts_with("b3:") && spec.code_digest.len() == 67, "{}", spec.kind);
            assert_eq!(spec.params_schema["type"], "object", "{}", spec.kind);
            assert_eq!(spec.params_schema["additionalProperties"], false, "{}", spec.kind);
        }
    }

    #[test]
    fn every_input_can_be_made_by_some_kind() {
        let registry = registry();
        let made: BTreeSet<_> = registry.iter().flat_map(|s| s.spec().outputs.iter().map(|o| o.artifact)).collect();
        for stage in registry.iter() {
            for input in &stage.spec().inputs {
                assert!(made.contains(input.artifact), "{}.{}", stage.spec().kind, input.name);
            }
        }
    }

    #[test]
    fn an_unknown_role_is_none() {
        assert!(mpc_role("referee", std::io::empty(), std::io::sink()).is_none());
    }
}
