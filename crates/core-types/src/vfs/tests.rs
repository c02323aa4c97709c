use super::*;

#[cfg(target_os = "linux")]
#[test]
fn syncfs_is_trusted_only_where_it_reports_lost_writes() {
    for (release, trusted) in [
        ("5.17.0", true),
        ("6.1.0-28-amd64", true),
        ("5.16.20", false),
        ("5.15.0-125-generic", false),
        ("5.8.0", false),
        ("4.19", false),
        ("5", false),
        ("", false),
        ("99999999999.1", false),
    ] {
        assert_eq!(
            kernel_reports_lost_writes(release.as_bytes()),
            trusted,
            "{release}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    if let Some(disk) = OsVfs.disk(dir.path()).unwrap() {
        disk.sync_all().unwrap();
    }
    assert!(OsVfs.disk(Path::new("/proc")).unwrap().is_none());
}
