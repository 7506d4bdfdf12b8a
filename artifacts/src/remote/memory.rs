//! Objects in memory, with the faults of a real service, and a sealer that only marks.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use super::{Body, Creation, ObjectError, Objects, SealError, Sealer};

/// What goes wrong with the next operations.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// This many creations succeed although their caller is told that the service is away.
    pub(super) lost_answers: u32,
    /// This many operations fail without an effect.
    pub(super) unavailable: u32,
    /// This many reads are cut off by one byte.
    pub(super) cut_reads: u32,
}

/// Shared objects: a clone is another machine's view.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    pub(super) objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    pub(super) faults: Arc<Mutex<Faults>>,
}

impl Memory {
    fn fault(&self, operation: &'static str, name: &str) -> Result<(), ObjectError> {
        let mut faults = self.faults.lock().unwrap();
        if faults.unavailable == 0 {
            return Ok(());
        }
        faults.unavailable -= 1;
        Err(ObjectError::Unavailable { operation, name: name.to_owned(), reason: "injected".to_owned() })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
}

impl Objects for Memory {
    fn create(&self, name: &str, body: Body<'_>) -> Result<Creation, ObjectError> {
        self.fault("create", name)?;
        let bytes = match body {
            Body::Bytes(bytes) => bytes.to_vec(),
            Body::File { path, size, .. } => {
                let bytes = std::fs::read(path).unwrap();
                assert_eq!(bytes.len() as u64, size, "the announced length");
                bytes
            }
        };
        let mut objects = self.objects.lock().unwrap();
        if let Some(there) = objects.get(name) {
            return Ok(if *there == bytes { Creation::Same } else { Creation::Other });
        }
        objects.insert(name.to_owned(), bytes);
        let mut faults = self.faults.lock().unwrap();
        if faults.lost_answers > 0 {
            faults.lost_answers -= 1;
            return Err(ObjectError::Unavailable { operation: "create", name: name.to_owned(), reason: "lost".to_owned() });
        }
        Ok(Creation::New)
    }

    fn read(&self, name: &str, into: &mut dyn Write) -> Result<bool, ObjectError> {
        self.fault("read", name)?;
        let objects = self.objects.lock().unwrap();
        let Some(mut bytes) = objects.get(name).map(Vec::as_slice) else { return Ok(false) };
        let mut faults = self.faults.lock().unwrap();
        if faults.cut_reads > 0 {
            faults.cut_reads -= 1;
            bytes = &bytes[..bytes.len() - 1];
        }
        into.write_all(bytes).map_err(|source| ObjectError::Local { name: name.to_owned(), source })?;
        Ok(true)
    }

    fn exists(&self, name: &str) -> Result<bool, ObjectError> {
        self.fault("inspect", name)?;
        Ok(self.objects.lock().unwrap().contains_key(name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        self.fault("list", prefix)?;
        Ok(self.names().into_iter().filter(|n| n.starts_with(prefix)).collect())
    }

    fn remove(&self, name: &str) -> Result<(), ObjectError> {
        self.fault("remove", name)?;
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }
}

/// Inverts every byte: enough to see what went through it.
#[derive(Debug)]
pub(super) struct Inverter {
    pub(super) opens: bool,
}

fn invert(from: &mut dyn Read, to: &mut dyn Write) -> Result<(), SealError> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    bytes.iter_mut().for_each(|b| *b = !*b);
    Ok(to.write_all(&bytes)?)
}

impl Sealer for Inverter {
    fn can_open(&self) -> bool {
        self.opens
    }

    fn seal(&self, plain: &mut dyn Read, sealed: &mut dyn Write) -> Result<(), SealError> {
        invert(plain, sealed)
    }

    fn open(&self, sealed: &mut dyn Read, plain: &mut dyn Write) -> Result<(), SealError> {
        if self.opens { invert(sealed, plain) } else { Err(SealError::NoIdentity) }
    }
}
