use std::time::Duration;

use anyhow::Context as _;
use relaykit_pipeline_traits::{Clock as _, SystemClock};
use relaykit_sql_store::postgres::sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a network does to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They end.
    Cut,
    /// They end with a reset.
    Reset,
    /// Each piece takes some time.
    Delay,
    /// A byte comes after another, slowly.
    Drip,
    /// They stay, and nothing is read from them for a while.
    HalfOpen,
    /// They stay, and what comes is lost, also later.
    BlackHole,
    /// They end once a commit was passed on, before it is answered.
    CutAfterCommit,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] = [
        Self::Cut,
        Self::Reset,
        Self::Delay,
        Self::Drip,
        Self::HalfOpen,
        Self::BlackHole,
        Self::CutAfterCommit,
    ];
}

/// Stands between clients and a server, on a port of its own.
pub(crate) struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    /// Accepts, until this is dropped.
    _accepting: JoinSet<()>,
}

/// What is wrong now, and with which connections: all but every third.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    fault: Option<Fault>,
    spared: u64,
}

impl Weather {
    fn of(self, number: u64) -> Option<Fault> {
        self.fault.filter(|_| number % 3 != self.spared)
    }
}

type Reader = dyn AsyncRead + Send + Unpin;
type Writer = dyn AsyncWrite + Send + Unpin;

impl Proxy {
    /// Begins to pass on what comes for this server.
    ///
    /// # Errors
    ///
    /// If the URL is none, or there is no port.
    pub(crate) async fn before(url: &str) -> anyhow::Result<Self> {
        let options: PgConnectOptions = url.parse()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (weather, forecast) = watch::channel(Weather::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((client, _)) = listener.accept().await else { continue };
                let (options, forecast) = (options.clone(), forecast.clone());
                connections.spawn(async move {
                    // Whoever is cut off notices.
                    let _ = connection(client, &options, number, forecast).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, weather, _accepting: accepting })
    }

    /// The URL of the server as seen from behind the proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        let (base, _) = url.split_once('?').unwrap_or((url, ""));
        let (_, rest) = base.split_once("://").unwrap_or(("", base));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, _) = authority.rsplit_once('@').unwrap_or(("postgres", ""));
        format!("postgres://{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Does this to two connections of three, those that are there and those that come, until it is healed.
    pub(crate) fn suffer(&self, fault: Fault, spared: u64) {
        self.weather.send_replace(Weather { fault: Some(fault), spared: spared % 3 });
    }

    pub(crate) fn heal(&self) {
        self.weather.send_replace(Weather::default());
    }
}

async fn connection(
    mut client: TcpStream,
    options: &PgConnectOptions,
    number: u64,
    forecast: watch::Receiver<Weather>,
) -> anyhow::Result<()> {
    client.set_nodelay(true)?;
    let (mut from_server, mut to_server) = server(options).await?;
    let (mut from_client, mut to_client) = client.split();
    let there = Pump { number, forecast: forecast.clone(), asks: true };
    let back = Pump { number, forecast: forecast.clone(), asks: false };
    let end = tokio::select! {
        end = there.run(&mut from_client, &mut to_server) => end,
        end = back.run(&mut from_server, &mut to_client) => end,
    };
    if forecast.borrow().of(number) == Some(Fault::Reset) {
        client.set_zero_linger()?;
    }
    end
}

async fn server(options: &PgConnectOptions) -> anyhow::Result<(Box<Reader>, Box<Writer>)> {
    let port = options.get_port();
    if let Some(folder) = options.get_socket() {
        let path = folder.join(format!(".s.PGSQL.{port}"));
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        return Ok((Box::new(reader), Box::new(writer)));
    }
    let (reader, writer) = TcpStream::connect((options.get_host(), port)).await?.into_split();
    Ok((Box::new(reader), Box::new(writer)))
}

fn commits(piece: &[u8]) -> bool {
    piece.windows(6).any(|text| text.eq_ignore_ascii_case(b"commit"))
}

/// One direction of a connection.
struct Pump {
    number: u64,
    forecast: watch::Receiver<Weather>,
    /// Whether it leads to the server.
    asks: bool,
}

/// How long a piece is delayed, and a byte.
const PIECE: Duration = Duration::from_millis(30);
const BYTE: Duration = Duration::from_millis(1);

impl Pump {
    async fn run<R, W>(mut self, from: &mut R, to: &mut W) -> anyhow::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let clock = SystemClock::new();
        let (mut buffer, mut lost) = (vec![0; 16 * 1024], false);
        loop {
            let count = tokio::select! {
                biased;
                changed = self.forecast.changed() => {
                    changed.context("the test has ended")?;
                    match self.fault() {
                        Some(Fault::Cut | Fault::Reset) => return Ok(()),
                        Some(Fault::BlackHole) => lost = true,
                        _ => {}
                    }
                    continue;
                }
                read = from.read(&mut buffer) => read?,
            };
            if count == 0 {
                return Ok(());
            }
            let piece = &buffer[..count];
            match self.fault() {
                _ if lost => continue,
                Some(Fault::CutAfterCommit) if self.asks && commits(piece) => {
                    to.write_all(piece).await?;
                    // It is the server's now, and nobody hears what it says.
                    clock.sleep(BYTE).await;
                    return Ok(());
                }
                None | Some(Fault::CutAfterCommit) => {}
                Some(Fault::Cut | Fault::Reset) => return Ok(()),
                Some(Fault::Delay) => clock.sleep(PIECE).await,
                Some(Fault::Drip) => {
                    for byte in piece {
                        to.write_all(std::slice::from_ref(byte)).await?;
                        if self.fault() == Some(Fault::Drip) {
                            clock.sleep(BYTE).await;
                        }
                    }
                    continue;
                }
                Some(Fault::HalfOpen) => {
                    let healed =
                        self.forecast.wait_for(|weather| weather.of(self.number) != Some(Fault::HalfOpen));
                    drop(healed.await);
                }
                Some(Fault::BlackHole) => {
                    lost = true;
                    continue;
                }
            }
            to.write_all(piece).await?;
        }
    }

    fn fault(&self) -> Option<Fault> {
        self.forecast.borrow().of(self.number)
    }
}
