//! A small disk: what was not synced may be lost or torn by a crash.

use std::collections::BTreeMap;

use holdfast_core::entropy::Entropy;

/// The files of one folder.
///
/// What a file holds is durable once it was synced, its name once the folder was. A crash keeps a
/// beginning of what happened to the names (file systems order that), and of each file that was
/// written since its last sync the old content, the new one, or the beginning of the new one.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    /// What happened to the names since the folder was synced.
    pending: Vec<Change>,
    next: u64,
}

#[derive(Clone, Debug, Default)]
struct File {
    content: Vec<u8>,
    durable: Vec<u8>,
    is_dirty: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Create(String, u64),
    Rename(String, String),
}

fn apply(names: &mut BTreeMap<String, u64>, change: &Change) {
    match change {
        Change::Create(name, file) => drop(names.insert(name.clone(), *file)),
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
    }
}

impl Disk {
    /// What a file holds.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<&[u8]> {
        let file = self.files.get(self.names.get(name)?)?;
        Some(&file.content)
    }

    /// Makes a file, or replaces what is in it.
    pub fn write(&mut self, name: &str, content: &[u8]) {
        let number = match self.names.get(name) {
            Some(number) => *number,
            None => {
                self.next += 1;
                self.change(Change::Create(name.to_owned(), self.next));
                self.next
            }
        };
        let file = self.files.entry(number).or_default();
        file.content = content.to_vec();
        file.is_dirty = true;
    }

    /// What a file holds will survive.
    pub fn sync(&mut self, name: &str) {
        if let Some(file) = self.names.get(name).and_then(|n| self.files.get_mut(n)) {
            file.durable.clone_from(&file.content);
            file.is_dirty = false;
        }
    }

    /// A file has another name; one that had it is gone.
    pub fn rename(&mut self, from: &str, to: &str) {
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
    }

    /// The names will survive.
    pub fn sync_folder(&mut self) {
        self.durable.clone_from(&self.names);
        self.pending.clear();
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    /// The machine is gone and comes back.
    pub fn crash(&mut self, entropy: &mut Entropy) {
        let kept = entropy.below(self.pending.len() as u64 + 1) as usize;
        for change in self.pending.drain(..).take(kept) {
            apply(&mut self.durable, &change);
        }
        self.names.clone_from(&self.durable);
        let Disk { files, names, .. } = self;
        files.retain(|number, _| names.values().any(|named| named == number));
        for file in files.values_mut().filter(|file| file.is_dirty) {
            match entropy.below(3) {
                0 => file.content.clone_from(&file.durable),
                1 => {
                    let len = entropy.below(file.content.len() as u64 + 1);
                    file.content.truncate(len as usize);
                }
                _ => {}
            }
            file.durable.clone_from(&file.content);
            file.is_dirty = false;
        }
    }

    /// Everything is gone.
    pub fn wipe(&mut self) {
        *self = Disk::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::entropy::Seed;
    use std::collections::BTreeSet;

    const OLD: &[u8] = b"the old content";
    const NEW: &[u8] = b"what is new in it";

    /// What a file holds after crashes of many seeds; `None` when it is not there.
    fn outcomes(disk: &Disk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
        let after = |seed: u8| {
            let mut disk = disk.clone();
            disk.crash(&mut Seed::new([seed; 32]).rng());
            disk.read(name).map(<[u8]>::to_vec)
        };
        (0..=255).map(after).collect()
    }

    fn with_old() -> Disk {
        let mut disk = Disk::default();
        disk.write("id", OLD);
        disk.sync("id");
        disk.sync_folder();
        disk
    }

    #[test]
    fn what_was_synced_survives_and_a_wipe_takes_all() {
        let mut disk = with_old();
        assert_eq!(outcomes(&disk, "id"), BTreeSet::from([Some(OLD.to_vec())]));
        disk.wipe();
        assert_eq!(disk.read("id"), None);
    }

    #[test]
    fn a_file_that_is_written_in_place_may_be_old_new_or_torn() {
        let mut disk = with_old();
        disk.write("id", NEW);
        assert_eq!(disk.read("id"), Some(NEW));
        let seen = outcomes(&disk, "id");
        assert!(seen.contains(&Some(OLD.to_vec())) && seen.contains(&Some(NEW.to_vec())));
        let is_torn = |found: &Option<Vec<u8>>| {
            let found = found.as_deref().expect("its name was synced");
            NEW.starts_with(found) && found.len() < NEW.len()
        };
        assert!(seen.iter().any(is_torn));
    }

    #[test]
    fn a_file_that_is_synced_beside_and_renamed_is_old_or_new_and_never_torn() {
        let mut disk = with_old();
        disk.write("id.new", NEW);
        disk.sync("id.new");
        disk.rename("id.new", "id");
        let both = BTreeSet::from([Some(OLD.to_vec()), Some(NEW.to_vec())]);
        assert_eq!(outcomes(&disk, "id"), both);
        disk.sync_folder();
        assert_eq!(outcomes(&disk, "id"), BTreeSet::from([Some(NEW.to_vec())]));
    }

    #[test]
    fn a_rename_before_the_sync_may_leave_half_a_file() {
        let mut disk = with_old();
        disk.write("id.new", NEW);
        disk.rename("id.new", "id");
        disk.sync_folder();
        let seen = outcomes(&disk, "id");
        assert!(seen.iter().flatten().any(|found| found.len() < NEW.len()));
    }

    #[test]
    fn a_name_that_was_not_synced_may_be_gone() {
        let mut disk = Disk::default();
        disk.write("id", NEW);
        disk.sync("id");
        let both = BTreeSet::from([None, Some(NEW.to_vec())]);
        assert_eq!(outcomes(&disk, "id"), both);
    }
}
