use std::fmt;
use std::path::PathBuf;

use super::{binaries, docker, package, variable};

/// What this machine offers. Later fields are looked at only when the earlier ones are empty.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) database_url: Option<String>,
    /// The folder with `initdb` and `postgres`.
    pub(super) binaries: Option<PathBuf>,
    /// Whether a Docker engine answers.
    pub(super) docker: bool,
    /// Whether this is a Debian or Ubuntu on which we may install packages.
    pub(super) may_install: bool,
}

/// Where the server comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Given { url: String },
    Binaries { folder: PathBuf },
    Docker,
    Package,
    Nothing { advice: &'static str },
}

const ADVICE: &str = "set DATABASE_URL to a server in which tests may create schemas, or install one: \
`apt-get install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora), \
`brew install postgresql@17` (macOS); a running Docker engine does as well";

impl Found {
    pub(super) fn here() -> Self {
        let mut found = Self { database_url: variable("DATABASE_URL"), ..Self::default() };
        if found.database_url.is_none() && cfg!(unix) {
            found.binaries = binaries::find();
        }
        if found.database_url.is_none() && found.binaries.is_none() {
            found.docker = docker::answers();
            found.may_install = !found.docker && package::may_install();
        }
        found
    }
}

/// Chooses the first of: a server that was given, binaries, Docker, a package to install.
pub(super) fn choose(found: &Found) -> Source {
    match found {
        Found { database_url: Some(url), .. } => Source::Given { url: url.clone() },
        Found { binaries: Some(folder), .. } => Source::Binaries { folder: folder.clone() },
        Found { docker: true, .. } => Source::Docker,
        Found { may_install: true, .. } => Source::Package,
        _ => Source::Nothing { advice: ADVICE },
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given { .. } => f.write_str("a server that was given"),
            Self::Binaries { folder } => write!(f, "a throwaway server of {}", folder.display()),
            Self::Docker => write!(f, "a throwaway container of {}", docker::IMAGE),
            Self::Package => write!(f, "installing the package {}", package::NAME),
            Self::Nothing { .. } => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Found {
        Found {
            database_url: Some("postgres://db".into()),
            binaries: Some("/bin".into()),
            docker: true,
            may_install: true,
        }
    }

    #[test]
    fn a_given_server_comes_first_and_installing_last() {
        let mut found = everything();
        assert_eq!(choose(&found), Source::Given { url: "postgres://db".into() });
        found.database_url = None;
        assert_eq!(choose(&found), Source::Binaries { folder: "/bin".into() });
        found.binaries = None;
        assert_eq!(choose(&found), Source::Docker);
        found.docker = false;
        assert_eq!(choose(&found), Source::Package);
    }

    #[test]
    fn a_machine_with_nothing_is_told_what_to_install() {
        let Source::Nothing { advice } = choose(&Found::default()) else { panic!("found something") };
        assert!(advice.contains("apt-get install postgresql") && advice.contains("DATABASE_URL"), "{advice}");
    }

    #[test]
    fn a_url_is_never_shown() {
        let source = Source::Given { url: "postgres://ada:secret@db".into() };
        assert!(!source.to_string().contains("secret"));
    }
}
