use relaykit_iterable_handlers::testing::StandIn;
use serde_json::Value;

/// Calls a stand-in, each time over a new connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    http: reqwest::Client,
    base: String,
}

/// A reply, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Heard {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

impl Caller {
    pub(crate) fn of(api: &StandIn) -> Self {
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy().build().unwrap();
        Self { http, base: api.base_url().to_owned() }
    }

    /// Posts JSON and returns status and JSON of the reply.
    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let heard = self.try_post(path, body).await.unwrap();
        (heard.status, heard.json())
    }

    pub(crate) async fn try_post(&self, path: &str, body: Value) -> reqwest::Result<Heard> {
        hear(self.http.post(self.url(path)).header("Api-Key", "key").json(&body)).await
    }

    pub(crate) async fn post_raw(&self, path: &str, body: Vec<u8>) -> Heard {
        let request = self.http.post(self.url(path)).header("Api-Key", "key").body(body);
        hear(request).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Heard {
        hear(self.http.get(self.url(path)).header("Api-Key", "key")).await.unwrap()
    }

    pub(crate) async fn delete(&self, path: &str) -> Heard {
        hear(self.http.delete(self.url(path)).header("Api-Key", "key")).await.unwrap()
    }

    pub(crate) async fn get_with_key(&self, path: &str, key: &str) -> Heard {
        hear(self.http.get(self.url(path)).header("Api-Key", key)).await.unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

async fn hear(request: reqwest::RequestBuilder) -> reqwest::Result<Heard> {
    let response = request.send().await?;
    Ok(Heard {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.text().await?,
    })
}
