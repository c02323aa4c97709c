//! What the disk in memory keeps and loses.

use super::*;

fn write(vfs: &MemVfs, path: &str, bytes: &[u8], sync: bool) {
    let file = vfs.open(Path::new(path), OpenMode::Create).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    if sync {
        file.sync_data().unwrap();
    }
}

#[test]
fn power_loss_keeps_exactly_what_was_synced() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..50 {
        let vfs = MemVfs::new();
        vfs.create_dir_all(Path::new("/d")).unwrap();
        write(&vfs, "/d/synced", b"durable", true);
        write(&vfs, "/d/nameless", b"x", true);
        vfs.sync_dir(Path::new("/d")).unwrap();
        write(&vfs, "/d/late", b"x", true);
        write(&vfs, "/d/synced", b"DURABLE", false);
        let after = vfs.lose_power(&mut Rng::new(seed));
        assert!(
            vfs.exists(Path::new("/d/synced")).is_err(),
            "old handles are dead"
        );
        assert!(after.exists(Path::new("/d/nameless")).unwrap());
        assert!(
            !after.exists(Path::new("/d/late")).unwrap(),
            "its name was not synced"
        );
        match after
            .read_file(Path::new("/d/synced"), 100)
            .unwrap()
            .as_slice()
        {
            b"durable" => lost += 1,
            b"DURABLE" => kept += 1,
            other => panic!("impossible content {other:?}"),
        }
    }
    assert!(
        kept > 0 && lost > 0,
        "both outcomes must occur: {kept} kept, {lost} lost"
    );
}

#[test]
fn the_power_goes_after_so_many_syncs_and_no_write_counts() {
    let vfs = MemVfs::new();
    vfs.create_dir_all(Path::new("/d")).unwrap();
    vfs.blow_after_syncs(2);
    write(&vfs, "/d/f", b"a", true);
    vfs.sync_dir(Path::new("/d")).unwrap();
    let file = vfs.open(Path::new("/d/f"), OpenMode::Create).unwrap();
    file.write_all_at(b"b", 1).unwrap();
    assert!(!vfs.is_blown());
    assert!(file.sync_data().is_err() && vfs.is_blown());
    let after = vfs.lose_power(&mut Rng::new(1));
    let kept = after.read_file(Path::new("/d/f"), 10).unwrap();
    assert!(kept.starts_with(b"a"), "{kept:?}");
}

#[test]
fn a_blown_fuse_fails_everything_until_the_power_is_back() {
    let vfs = MemVfs::new();
    vfs.create_dir_all(Path::new("/d")).unwrap();
    let file = vfs.open(Path::new("/d/f"), OpenMode::Create).unwrap();
    vfs.blow_after(2);
    file.write_all_at(b"abc", 0).unwrap();
    assert!(!vfs.is_blown());
    file.sync_data().unwrap();
    assert!(vfs.is_blown());
    assert!(file.write_all_at(b"d", 0).is_err());
    assert!(file.read_at(&mut [0; 3], 0).is_err());
    let after = vfs.lose_power(&mut Rng::new(1));
    assert!(!after.is_blown() && after.open(Path::new("/d/g"), OpenMode::Create).is_ok());
}

#[test]
fn a_sync_of_the_whole_disk_fails_if_one_file_does_and_syncs_the_others() {
    for seed in 0..20 {
        let vfs = MemVfs::new();
        vfs.create_dir_all(Path::new("/d")).unwrap();
        let disk = vfs.disk(Path::new("/d")).unwrap().unwrap();
        write(&vfs, "/d/a", b"abc", false);
        disk.sync_all().unwrap();
        write(&vfs, "/d/a", b"ABC", false);
        write(&vfs, "/d/b", b"xyz", false);
        vfs.inject("/d/a", DiskFault::FailSync);
        assert!(disk.sync_all().is_err());
        let after = vfs.lose_power(&mut Rng::new(seed));
        after.heal();
        assert_eq!(after.read_file(Path::new("/d/b"), 100).unwrap(), b"xyz");
        assert!(after.exists(Path::new("/d/a")).unwrap());
        assert!(disk.sync_all().is_err(), "old handles are dead");
    }
}

#[test]
fn a_lost_write_is_reported_once_to_each_open_file_and_handle_of_the_disk() {
    let vfs = MemVfs::new();
    vfs.create_dir_all(Path::new("/d")).unwrap();
    let handle = || vfs.disk(Path::new("/d")).unwrap().unwrap();
    let disks = [handle(), handle()];
    write(&vfs, "/d/a", b"abc", true);
    vfs.sync_dir(Path::new("/d")).unwrap();
    let open = || vfs.open(Path::new("/d/a"), OpenMode::ReadWrite).unwrap();
    let files = [open(), open()];
    files[0].write_all_at(b"ABC", 0).unwrap();
    vfs.inject("/d/a", DiskFault::FailSync);
    assert!(disks[0].sync_all().is_err());
    vfs.heal();
    assert!(disks[0].sync_all().is_ok(), "it has heard of it");
    assert!(disks[1].sync_all().is_err());
    assert!(handle().sync_all().is_ok(), "opened later");
    for file in &files {
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok());
    }
    let after = vfs.lose_power(&mut Rng::new(1));
    assert_eq!(after.read_file(Path::new("/d/a"), 100).unwrap(), b"abc");
}

#[test]
fn a_process_restart_loses_nothing() {
    let vfs = MemVfs::new();
    vfs.create_dir_all(Path::new("/d")).unwrap();
    write(&vfs, "/d/f", b"abc", false);
    let after = vfs.restart_process();
    assert_eq!(after.read_file(Path::new("/d/f"), 100).unwrap(), b"abc");
}

#[test]
fn an_atomic_write_is_all_or_nothing() {
    for seed in 0..50 {
        let vfs = MemVfs::new();
        vfs.create_dir_all(Path::new("/d")).unwrap();
        vfs.write_file_atomically(Path::new("/d/f"), b"old")
            .unwrap();
        vfs.inject("/d", DiskFault::FailSync);
        assert!(
            vfs.write_file_atomically(Path::new("/d/f"), b"new")
                .is_err()
        );
        let after = vfs.lose_power(&mut Rng::new(seed));
        after.heal();
        assert_eq!(after.read_file(Path::new("/d/f"), 100).unwrap(), b"old");
    }
}

#[test]
fn a_directory_is_lost_with_all_below_unless_the_one_above_was_synced() {
    let vfs = MemVfs::new();
    for directory in ["/d/kept", "/d/lost"] {
        vfs.create_dir_all(Path::new(directory)).unwrap();
        if directory == "/d/kept" {
            vfs.sync_dir(Path::new("/d")).unwrap();
        }
        write(&vfs, &format!("{directory}/f"), b"x", true);
        vfs.sync_dir(Path::new(directory)).unwrap();
    }
    let after = vfs.lose_power(&mut Rng::new(1));
    assert!(after.exists(Path::new("/d/kept/f")).unwrap());
    assert!(!after.exists(Path::new("/d/lost")).unwrap());
    assert!(!after.exists(Path::new("/d/lost/f")).unwrap());
    let again = after.lose_power(&mut Rng::new(1));
    assert!(again.exists(Path::new("/d/kept/f")).unwrap());
}

#[test]
fn a_flipped_bit_is_damage_until_it_is_written_anew_or_gone() {
    let vfs = MemVfs::new();
    let path = Path::new("/d/f");
    vfs.create_dir_all(Path::new("/d")).unwrap();
    write(&vfs, "/d/f", b"abcdef", true);
    write(&vfs, "/d/g", b"x", false);
    let settled = vfs.settled_files(Path::new("/d"));
    assert_eq!(settled, [(path.to_owned(), 6)]);
    let file = vfs.open(path, OpenMode::ReadWrite).unwrap();
    vfs.flip_bit(path, 3, 0).unwrap();
    assert_eq!(vfs.read_file(path, 10).unwrap(), b"abceef");
    assert!(vfs.is_damaged(path) && vfs.is_damaged(Path::new("/d")));
    assert!(!vfs.is_damaged(Path::new("/d/g")));
    file.write_all_at(b"b", 1).unwrap();
    assert!(vfs.is_damaged(path));
    file.write_all_at(b"cd", 2).unwrap();
    assert!(!vfs.is_damaged(path));
    vfs.flip_bit(path, 5, 7).unwrap();
    file.set_len(5).unwrap();
    assert!(!vfs.is_damaged(path));
    vfs.flip_bit(path, 0, 7).unwrap();
    vfs.remove_file(path).unwrap();
    assert!(!vfs.is_damaged(path));
}
