//! One connection to a server.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_postgres::error::DbError;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, NoTls, SimpleQueryMessage};

use super::outcome;

/// Most notices that are kept of one statement.
const NOTICES_MAX: usize = 16;

/// Rows of columns, each as text or null.
pub type Rows = Vec<Vec<Option<String>>>;

/// Whom a client says it is. There is no TLS: what is measured is the mesh, which encrypts.
#[derive(Clone)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its password, if it needs one.
    pub password: Option<String>,
    /// The database.
    pub database: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, database) = (&self.user, &self.database);
        write!(f, "Login({user:?} at {database:?})")
    }
}

impl Login {
    fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .user(&self.user)
            .dbname(&self.database)
            .application_name("holdfast-workload");
        if let Some(password) = &self.password {
            config.password(password);
        }
        config
    }
}

/// Why something could not be done with a server.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// Nobody listens, or the way there is broken.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// The server said no, or the connection broke.
    #[error("{0}")]
    Server(String),
    /// It took longer than it may.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It said something else than it should.
    #[error("unexpected answer: {0}")]
    Answer(String),
}

/// One connection to a server. It lives on being used: nothing runs in the background.
pub struct Session<S> {
    client: Client,
    /// `None` once it is over, so that requests that wait on it end.
    connection: Option<Connection<S, NoTlsStream>>,
    notices: Vec<DbError>,
    server: Option<String>,
}

impl<S> fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:?})", self.server)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Connects, logs in and asks who it is, all of it within a limit.
    ///
    /// # Errors
    /// When it cannot be reached, says no, or takes longer.
    pub async fn open(
        stream: impl Future<Output = io::Result<S>>,
        login: &Login,
        within: Duration,
    ) -> Result<Session<S>, WorkError> {
        let opening = async {
            let stream = stream.await.map_err(WorkError::Connect)?;
            let connecting = login.config().connect_raw(stream, NoTls).await;
            let (client, connection) = connecting.map_err(|error| server_error(&error))?;
            let mut session = Session {
                client,
                connection: Some(connection),
                notices: Vec::new(),
                server: None,
            };
            session.server = session.identify().await?;
            Ok(session)
        };
        match timeout(within, opening).await {
            Ok(outcome) => outcome,
            Err(_) => Err(WorkError::Late(within)),
        }
    }

    /// Which server this is: its address, and the timeline that it writes or that it is a replica.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.connection.is_none() || self.client.is_closed()
    }

    async fn identify(&mut self) -> Result<Option<String>, WorkError> {
        // The first eight digits of a WAL segment's name are its timeline; the control file has
        // the new one only after the checkpoint that follows a promotion.
        let asked = "SELECT coalesce(host(inet_server_addr()), 'socket') || CASE WHEN \
                     pg_is_in_recovery() THEN ' replica' ELSE ' timeline ' || \
                     ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END";
        let rows = self.rows(asked).await?;
        Ok(rows.into_iter().flatten().next().flatten())
    }

    /// Runs a statement; its notices, and what it is told.
    pub(super) async fn execute(&mut self, sql: &str) -> Result<Vec<DbError>, Error> {
        self.notices.clear();
        let Session {
            client,
            connection,
            notices,
            ..
        } = self;
        drive(connection, notices, client.batch_execute(sql)).await?;
        Ok(std::mem::take(&mut self.notices))
    }

    /// The rows of a query, as text, and its notices.
    pub(super) async fn query_with_notices(
        &mut self,
        sql: &str,
    ) -> Result<(Rows, Vec<DbError>), Error> {
        self.notices.clear();
        let Session {
            client,
            connection,
            notices,
            ..
        } = self;
        let messages = drive(connection, notices, client.simple_query(sql)).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let cell = |at| row.get(at).map(str::to_owned);
                Some((0..row.len()).map(cell).collect())
            }
            _ => None,
        });
        let rows = rows.collect();
        Ok((rows, std::mem::take(&mut self.notices)))
    }

    /// The rows of a query, or of several, as text.
    ///
    /// # Errors
    /// When the server says no, or the connection breaks.
    pub async fn rows(&mut self, sql: &str) -> Result<Rows, WorkError> {
        let answer = self.query_with_notices(sql).await;
        let (rows, _) = answer.map_err(|error| server_error(&error))?;
        Ok(rows)
    }

    /// Waits, and notices meanwhile that the connection ends.
    pub(super) async fn idle(&mut self, time: Duration) {
        let Session {
            connection,
            notices,
            ..
        } = self;
        drive(connection, notices, tokio::time::sleep(time)).await;
        self.notices.clear();
    }
}

fn server_error(error: &Error) -> WorkError {
    WorkError::Server(outcome::text(error))
}

/// Does something while the connection is kept going.
async fn drive<S: AsyncRead + AsyncWrite + Unpin, T>(
    connection: &mut Option<Connection<S, NoTlsStream>>,
    notices: &mut Vec<DbError>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // First: it hands its request to the connection.
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        while let Some(open) = connection {
            match open.poll_message(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                    if notices.len() < NOTICES_MAX {
                        notices.push(notice);
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => *connection = None,
            }
        }
        work.as_mut().poll(cx)
    })
    .await
}
