//! The index: a disposable memory of what the record files say.
mod summary;
use crate::records::ResultId;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
pub(crate) use summary::Summary;
#[derive(Debug)]
pub(crate) struct Index;
impl Index {
    pub(crate) fn open(_path: &Path, _limit: Duration) -> Self {
        Self
    }
    pub(crate) fn remember(&self, _id: ResultId, _summary: Summary) {}
    pub(crate) fn summaries(&self, _ids: impl Iterator<Item = ResultId>) -> BTreeMap<ResultId, Summary> {
        BTreeMap::new()
    }
}
