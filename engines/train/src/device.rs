//! Where burn computes.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Which of burn's backends computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// burn-flex: the CPU, f32.
    #[default]
    Flex,
    /// burn-wgpu (WGSL): any GPU, with the cargo feature `wgpu`.
    Wgpu,
    /// burn-tch (libtorch), with the cargo feature `tch`. Upstream has deprecated it.
    Tch,
}

impl BackendKind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Tch => "tch",
        }
    }
}

/// A backend that this build does not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this build has no `{}` backend: build with `--features {}` or set device: flex", .0.name(), .0.name())]
pub struct BackendMissing(pub BackendKind);

/// An autodiff device, named explicitly: burn's default device depends on which cargo features happen to be on.
#[derive(Debug, Clone)]
pub struct Backend {
    kind: BackendKind,
    device: Device,
}

impl Backend {
    /// Opens a backend.
    pub fn open(kind: BackendKind) -> Result<Self, BackendMissing> {
        let device = match kind {
            BackendKind::Flex => Device::flex(),
            #[cfg(feature = "wgpu")]
            BackendKind::Wgpu => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
            #[cfg(feature = "tch")]
            BackendKind::Tch => tch_device(),
            #[allow(unreachable_patterns, reason = "reachable unless every backend is built")]
            missing => return Err(BackendMissing(missing)),
        };
        Ok(Self { kind, device: device.autodiff() })
    }

    /// Which backend.
    pub fn kind(&self) -> BackendKind {
        self.kind
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}

#[cfg(feature = "tch")]
#[expect(deprecated, reason = "the user asked for it; burn 0.23 removes it")]
fn tch_device() -> Device {
    Device::libtorch()
}
