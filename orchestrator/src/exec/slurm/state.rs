//! What the states of a Slurm job mean for an attempt (`squeue(1)`, JOB STATE CODES).

use sprint_stage_api::{ErrorClass, StageError};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobState {
    /// It waits for a machine, perhaps again.
    Waiting,
    /// It has one.
    Running,
    /// It is over.
    Over(End),
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its program ended by itself.
    Exited,
    /// Somebody cancelled it.
    Cancelled,
    /// Its time limit.
    TimeLimit,
    /// Its memory limit.
    OutOfMemory,
    /// Its machine was taken away, or failed.
    MachineLost,
}

impl JobState {
    /// Reads the long form of a state; `CANCELLED by 1000` of `sacct` too.
    pub(super) fn read(text: &str) -> Self {
        match text.split_whitespace().next().unwrap_or_default() {
            "RUNNING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "RESIZING" | "STAGE_OUT" | "COMPLETING" => Self::Running,
            "COMPLETED" | "FAILED" => Self::Over(End::Exited),
            "CANCELLED" => Self::Over(End::Cancelled),
            "TIMEOUT" | "DEADLINE" => Self::Over(End::TimeLimit),
            "OUT_OF_MEMORY" => Self::Over(End::OutOfMemory),
            "NODE_FAIL" | "PREEMPTED" | "BOOT_FAIL" | "REVOKED" => Self::Over(End::MachineLost),
            // PENDING, CONFIGURING, REQUEUED and its kin, and what later versions may add: it is in the queue, so it may still run.
            _ => Self::Waiting,
        }
    }
}

impl End {
    /// The failure of an attempt whose job ended so and left no outcome, or was asked to stop by somebody else.
    pub(super) fn failure(self, job: u64) -> StageError {
        match self {
            Self::Exited => StageError::transient(format!("Slurm job {job} ended without a result"))
                .help("the stage's log has what it printed; if it has nothing, see whether the nodes share the store's folder and the program"),
            Self::Cancelled => StageError::new(ErrorClass::Cancelled, format!("Slurm job {job} was cancelled"))
                .help("somebody used scancel, or the cluster was drained; run again to go on from the last checkpoint"),
            Self::TimeLimit => StageError::new(ErrorClass::Preempted, format!("Slurm job {job} reached its time limit"))
                .help("raise executor.slurm.time; stages with checkpoints go on from the last one, so retry.max may be raised instead"),
            Self::OutOfMemory => StageError::permanent(format!("Slurm job {job} used more memory than it had asked for"))
                .help("raise resources.mem of the stage"),
            Self::MachineLost => StageError::new(ErrorClass::Preempted, format!("Slurm job {job} lost its machine")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_state_says_whether_the_job_may_still_run() {
        let waiting = ["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"];
        assert!(waiting.iter().all(|s| JobState::read(s) == JobState::Waiting));
        assert_eq!(JobState::read("COMPLETING"), JobState::Running);
        assert_eq!(JobState::read("CANCELLED by 1000"), JobState::Over(End::Cancelled));
        for (text, class) in [
            ("NODE_FAIL", ErrorClass::Preempted),
            ("PREEMPTED", ErrorClass::Preempted),
            ("TIMEOUT", ErrorClass::Preempted),
            ("OUT_OF_MEMORY", ErrorClass::Permanent),
            ("CANCELLED", ErrorClass::Cancelled),
            ("FAILED", ErrorClass::Transient),
        ] {
            let JobState::Over(end) = JobState::read(text) else { panic!("{text} is an end") };
            assert_eq!(end.failure(7).class, class, "{text}");
        }
    }
}
