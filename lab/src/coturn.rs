//! coturn in the public namespace: the STUN and TURN server of a lab.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Error, Lab, PUB, SERVERS,
    process::{Process, ProcessId},
    tools,
};

/// coturn starts in 20 to 40 ms on an idle machine; this is for a very busy one.
const READY_BOUND: Duration = Duration::from_secs(10);

/// How long one look waits for an answer.
const PROBE_TIMEOUT: Duration = Duration::from_millis(50);

/// How long coturn may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// How long a secret or realm may be, bytes.
const WORD_LENGTH_MAX: usize = 128;

/// How coturn is to run. Not `Debug`, as the secret is for no log.
#[derive(Clone)]
pub struct Config {
    /// The addresses to listen on and relay from, of [`SERVERS`].
    pub addresses: Vec<Ipv4Addr>,
    /// The port, UDP and TCP. Default: 3478.
    pub port: u16,
    /// The shared secret of time-limited credentials (draft-uberti-behave-turn-rest-00).
    pub secret: String,
    /// The realm. Default: `holdfast`.
    pub realm: String,
    /// The smallest relay port. Default: 49152.
    pub port_min: u16,
    /// The greatest relay port. Default: 65535.
    pub port_max: u16,
    /// Further lines for `turnserver.conf`, such as `allocation-default-address-family=ipv4`.
    pub more: Vec<String>,
}

impl Config {
    /// The defaults, on the first address of [`SERVERS`], with that secret.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self {
            addresses: vec![SERVERS[0]],
            port: 3478,
            secret: secret.to_owned(),
            realm: "holdfast".to_owned(),
            port_min: 49_152,
            port_max: 65_535,
            more: Vec::new(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        for (what, word) in [("TURN secret", &self.secret), ("TURN realm", &self.realm)] {
            let allowed = word.bytes().all(|byte| byte.is_ascii_graphic());
            if !allowed || !(1..=WORD_LENGTH_MAX).contains(&word.len()) {
                return Err(Error::Invalid {
                    what,
                    // A secret is not for error messages.
                    found: format!("{} bytes", word.len()),
                    expected: format!("1 to {WORD_LENGTH_MAX} printable ASCII characters"),
                });
            }
        }
        if self.addresses.is_empty() || self.port_min > self.port_max {
            return Err(Error::Invalid {
                what: "TURN server",
                found: format!(
                    "{:?}, ports {}..{}",
                    self.addresses, self.port_min, self.port_max
                ),
                expected: "an address and a range of ports".to_owned(),
            });
        }
        Ok(())
    }

    /// The text of `turnserver.conf`.
    fn text(&self, folder: &Path) -> String {
        let mut text = String::from(
            "use-auth-secret\nfingerprint\nno-cli\nno-tls\nno-dtls\nno-multicast-peers\n\
             simple-log\nno-stdout-log\n",
        );
        for address in &self.addresses {
            let _ = writeln!(text, "listening-ip={address}\nrelay-ip={address}");
        }
        let folder = folder.display();
        let _ = writeln!(
            text,
            "listening-port={}\nrealm={}\nstatic-auth-secret={}\nmin-port={}\nmax-port={}\n\
             pidfile={folder}/coturn.pid\nuserdb={folder}/coturn.db\nlog-file={folder}/coturn.log",
            self.port, self.realm, self.secret, self.port_min, self.port_max
        );
        for line in &self.more {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// A running coturn; dropping it kills it.
#[derive(Debug)]
pub struct Coturn {
    process: Process,
    log: PathBuf,
}

impl Coturn {
    /// Starts coturn in the namespace [`PUB`] and waits until it answers on UDP and TCP.
    ///
    /// Its configuration (with the secret, mode 0600) and log are in the lab's folder.
    ///
    /// # Errors
    /// [`Error::MissingTool`] without coturn, [`Error::Invalid`], or [`Error::Ended`] or
    /// [`Error::Timeout`] with what it said.
    pub fn start(lab: &Lab, config: &Config) -> Result<Self, Error> {
        config.validate()?;
        let program = tools::find("turnserver")?;
        let folder = lab.folder();
        let path = folder.join("coturn.conf");
        write_secret(&path, &config.text(&folder))?;
        let mut command = lab.command(PUB, program)?;
        command.arg("-c").arg(&path);
        let mut process = Process::spawn("coturn", command, &folder.join("coturn.out"))?;
        let (address, port) = (config.addresses[0], config.port);
        // Connected, so that a closed port is an error at once and not a silence.
        let probe = lab.run_in(PUB, || {
            let socket = UdpSocket::bind((address, 0))?;
            socket.connect((address, port)).map(|()| socket)
        })?;
        let probe = probe.map_err(Error::io("open a socket to ask coturn"))?;
        process.wait_ready(READY_BOUND, |_| {
            answers_udp(&probe).unwrap_or(false)
                && lab
                    .run_in(PUB, || TcpStream::connect((address, port)).is_ok())
                    .unwrap_or(false)
        })?;
        let log = folder.join("coturn.log");
        Ok(Self { process, log })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        self.process.log() + &String::from_utf8_lossy(&log)
    }

    /// Ends it and waits for that.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be waited for.
    pub fn stop(self) -> Result<(), Error> {
        self.process.stop(STOP_GRACE).map(drop)
    }

    /// Lets it run for as long as the lab is up.
    #[must_use]
    pub fn detach(self) -> ProcessId {
        self.process.detach()
    }
}

/// Whether a STUN binding request (RFC 8489 section 5) is answered.
fn answers_udp(socket: &UdpSocket) -> io::Result<bool> {
    const REQUEST: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42holdfast-lab";
    const SUCCESS: [u8; 2] = [0x01, 0x01];
    socket.set_read_timeout(Some(PROBE_TIMEOUT))?;
    socket.send(&REQUEST)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(length >= 20 && answer[..2] == SUCCESS && answer[8..20] == REQUEST[8..])
}

fn write_secret(path: &Path, text: &str) -> Result<(), Error> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(Error::io(format!("write {}", path.display())))
}
