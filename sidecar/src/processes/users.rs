//! Users and groups by name, from `/etc/passwd` and `/etc/group` alone: what else the C library
//! might ask (LDAP, systemd) is not there in an image, and may block.

use std::fs;
use std::path::Path;

use super::spec::SpawnError;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Most groups of a process (limits.h, NGROUPS_MAX on Linux is more; nobody has them).
const GROUPS_MAX: usize = 1024;

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups, with `gid`.
    pub(super) groups: Vec<u32>,
    pub(super) name: String,
    pub(super) home: String,
}

/// Whom `user` and `group` mean; nobody else without a user.
pub(super) fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Account>, SpawnError> {
    match user {
        None if group.is_none() => Ok(None),
        None => Err(SpawnError::NoUser(String::new())),
        Some(user) => {
            let (passwd, groups) = (read(PASSWD)?, read(GROUP)?);
            look_up(&passwd, &groups, user, group).map(Some)
        }
    }
}

fn read(path: &'static str) -> Result<String, SpawnError> {
    match fs::read(Path::new(path)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(source) => Err(SpawnError::Accounts { path, source }),
    }
}

fn look_up(
    passwd: &str,
    groups: &str,
    user: &str,
    group: Option<&str>,
) -> Result<Account, SpawnError> {
    let no_user = || SpawnError::NoUser(user.to_owned());
    let fields = entry(passwd, user).ok_or_else(no_user)?;
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u32>().ok());
    let (uid, own_gid) = (
        number(2).ok_or_else(no_user)?,
        number(3).ok_or_else(no_user)?,
    );
    let gid = match group {
        None => own_gid,
        Some(group) => entry(groups, group)
            .and_then(|fields| fields.get(2)?.parse().ok())
            .ok_or_else(|| SpawnError::NoGroup(group.to_owned()))?,
    };
    let mut all = vec![gid];
    for fields in groups.lines().map(split) {
        let [_, _, number, members] = fields.as_slice() else {
            continue;
        };
        if let Ok(number) = number.parse::<u32>()
            && members.split(',').any(|member| member == user)
            && !all.contains(&number)
        {
            all.push(number);
        }
    }
    all.truncate(GROUPS_MAX);
    Ok(Account {
        uid,
        gid,
        groups: all,
        name: user.to_owned(),
        home: fields.get(5).map_or("/", |home| home).to_owned(),
    })
}

fn entry<'a>(file: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let mut entries = file.lines().map(split);
    entries.find(|fields| fields.first() == Some(&name))
}

fn split(line: &str) -> Vec<&str> {
    line.trim_end_matches('\r').split(':').collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# a comment\npg:x:70:71:Postgres:/srv/pg:\nbad:x:a:b::\n";
    const GROUPS: &str = "root:x:0:\npg:x:71:\nssl:x:99:root,pg\nlog:x:98:pgx\nodd\n";

    #[test]
    fn a_user_has_its_own_group_and_those_that_name_it() {
        let account = look_up(PASSWD, GROUPS, "pg", None).unwrap();
        assert_eq!((account.uid, account.gid), (70, 71));
        assert_eq!(account.groups, [71, 99]);
        assert_eq!(account.home, "/srv/pg");
        let other = look_up(PASSWD, GROUPS, "pg", Some("log")).unwrap();
        assert_eq!((other.gid, other.groups), (98, vec![98, 99]));
    }

    #[test]
    fn who_does_not_exist_is_named() {
        for user in ["p", "pgx", "bad", "# a comment", ""] {
            let error = look_up(PASSWD, GROUPS, user, None).unwrap_err().to_string();
            assert!(error.contains(&format!("{user:?}")), "{error}");
        }
        let error = look_up(PASSWD, GROUPS, "pg", Some("x")).unwrap_err();
        assert!(error.to_string().contains("group \"x\""), "{error}");
    }
}
