use super::*;

fn entry(name: &str) -> FileEntry {
    FileEntry { name: name.to_owned(), size: 3, executable: false, digest: Digest::of(b"abc") }
}

fn manifest(names: &[&str]) -> Result<Manifest, ManifestError> {
    let meta = BTreeMap::from([("private".to_owned(), Value::Bool(false))]);
    Manifest::new("dataset@1".to_owned(), Secrecy::Public, names.iter().map(|n| entry(n)).collect(), meta)
}

#[test]
fn a_manifest_reads_back_as_itself_and_sorts_its_files_bytewise() {
    let m = manifest(&["b", "a/z", "a.txt", "B"]).expect("valid");
    let names: Vec<_> = m.files().iter().map(FileEntry::name).collect();
    assert_eq!(names, ["B", "a.txt", "a/z", "b"]);
    assert_eq!(Manifest::from_bytes(&m.to_bytes()).expect("reads back"), m);
    assert_eq!(m.file("a/z").map(FileEntry::size), Some(3));
    assert_eq!(m.file("a"), None);
    assert_eq!(manifest(&["a/z", "B", "b", "a.txt"]).expect("valid").id(), m.id());
}

#[test]
fn the_id_commits_to_every_field() {
    let base = manifest(&["a", "b"]).expect("valid");
    let changes: Vec<fn(&mut Manifest)> = vec![
        |m| m.kind = "dataset@2".to_owned(),
        |m| m.secrecy = Secrecy::Party(0),
        |m| m.secrecy = Secrecy::Secret,
        |m| m.files[0].name = "0".to_owned(),
        |m| m.files[0].size += 1,
        |m| m.files[0].executable = true,
        |m| m.files[1].digest = Digest::of(b"abd"),
        |m| drop(m.files.pop()),
        |m| drop(m.meta.insert("private".to_owned(), Value::Bool(true))),
        |m| drop(m.meta.remove("private")),
    ];
    let mut ids = std::collections::BTreeSet::from([base.id()]);
    for (i, change) in changes.iter().enumerate() {
        let mut changed = base.clone();
        change(&mut changed);
        assert!(ids.insert(changed.id()), "change {i} did not change the id");
    }
}

#[test]
fn names_that_leave_the_folder_or_clash_are_refused() {
    let long = "x".repeat(256);
    let rows: Vec<(Vec<&str>, NameError)> = vec![
        (vec!["/etc/passwd"], NameError::Absolute),
        (vec!["../x"], NameError::Dots),
        (vec!["a/../../x"], NameError::Dots),
        (vec!["."], NameError::Dots),
        (vec![""], NameError::Empty),
        (vec!["a//b"], NameError::Empty),
        (vec!["a/"], NameError::Empty),
        (vec!["a\0b"], NameError::Character),
        (vec!["a\nb"], NameError::Character),
        (vec!["a\\b"], NameError::Character),
        (vec![&long], NameError::TooLong),
        (vec!["a", "a"], NameError::Repeated),
        (vec!["a", "a.b", "a/b"], NameError::FileAndFolder),
    ];
    for (names, expected) in rows {
        match manifest(&names) {
            Err(ManifestError::Name { reason, .. }) => assert_eq!(reason, expected, "{names:?}"),
            other => panic!("{names:?}: {other:?}"),
        }
    }
    assert!(manifest(&["..a", "b/.hidden", "é"]).is_ok());
}

#[test]
fn kinds_have_a_version() {
    for kind in ["", "dataset", "dataset@", "@1", "Dataset@1", "data set@1", "dataset@01", "dataset@1@2", "dataset@x"] {
        let made = Manifest::new(kind.to_owned(), Secrecy::Public, vec![], BTreeMap::new());
        assert!(matches!(made, Err(ManifestError::Kind { .. })), "{kind:?}");
    }
}

#[test]
fn unknown_fields_versions_and_orders_are_refused() {
    let good = manifest(&["a", "b"]).expect("valid");
    let edit = |change: &dyn Fn(&mut BTreeMap<String, Value>)| {
        let Ok(Value::Map(mut map)) = Value::from_bytes(&good.to_bytes()) else { panic!("a map") };
        change(&mut map);
        Manifest::from_bytes(&Value::Map(map).to_bytes())
    };
    assert!(edit(&|_| {}).is_ok());
    let unknown = edit(&|m| drop(m.insert("extra".to_owned(), Value::Null)));
    assert!(matches!(unknown, Err(ManifestError::Structure(FieldError::Unknown { .. }))));
    let missing = edit(&|m| drop(m.remove("meta")));
    assert!(matches!(missing, Err(ManifestError::Structure(FieldError::Missing { name: "meta" }))));
    let later = edit(&|m| drop(m.insert("version".to_owned(), Value::Int(2))));
    assert!(matches!(later, Err(ManifestError::Version { found: 2 })));
    let label = edit(&|m| drop(m.insert("secrecy".to_owned(), "party-01".into())));
    assert!(matches!(label, Err(ManifestError::Structure(FieldError::Type { name: "secrecy", .. }))));
    let order = edit(&|m| {
        if let Some(Value::Array(files)) = m.get_mut("files") {
            files.reverse();
        }
    });
    assert!(matches!(order, Err(ManifestError::Order { .. })));
}

#[test]
fn only_public_artifacts_can_be_shown_to_everyone() {
    assert!(manifest(&["a"]).expect("valid").into_public().is_ok());
    for secrecy in [Secrecy::Party(0), Secrecy::Party(1), Secrecy::Secret] {
        let m = Manifest::new("shares@1".to_owned(), secrecy, vec![entry("a")], BTreeMap::new()).expect("valid");
        let refused = PublicArtifact::try_from(m.clone()).expect_err("it is not public");
        assert_eq!(refused, NotPublic { id: m.id(), secrecy });
    }
}
