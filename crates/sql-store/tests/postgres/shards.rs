use relaykit_pipeline_traits::Rng;
use relaykit_sql_store::postgres::TestPostgres;
use relaykit_sql_store::{Names, SHARD_OF, SHARD_OF_HEAD, Shards, Sql};

fn random_key(rng: &mut Rng) -> String {
    const LETTERS: [char; 12] = ['a', 'Z', '0', '-', '\'', '"', '\\', 'ü', 'ß', '漢', '🦀', '\u{feff}'];
    let letter = |rng: &mut Rng| LETTERS[usize::try_from(rng.below(12)).unwrap()];
    (0..rng.below(40)).map(|_| letter(rng)).collect()
}

#[tokio::test]
async fn sql_and_rust_agree_on_the_shard_of_every_key() {
    let Some(db) = TestPostgres::new().await else { return };
    let mut conn = db.connection().await;
    let seed = 64;
    let mut rng = Rng::seeded(seed);
    let keys: Vec<String> = (0..1000).map(|_| random_key(&mut rng)).collect();
    let heads: Vec<i64> = keys.iter().map(|key| Shards::head(key.as_bytes()).into()).collect();
    for count in [1, 2, 63, 64, 1000, 1024] {
        let shards = Shards::new(count).unwrap();
        let sql = |parts: &[&'static str]| {
            Sql::with_numbers(&Names::new("t").unwrap(), &[("shards", count.into())], parts)
        };
        let by_key = sql(&[
            "select ",
            SHARD_OF,
            " from (select convert_to(k, 'UTF8') as key, n from unnest($1::text[]) with ordinality as u(k, n)) as keys order by n",
        ]);
        let by_head = sql(&[
            "select ",
            SHARD_OF_HEAD,
            " from unnest($1::bigint[]) with ordinality as u(head, n) order by n",
        ]);
        let told: Vec<i32> = sqlx::query_scalar(by_key).bind(&keys).fetch_all(&mut conn).await.unwrap();
        let of_heads: Vec<i32> = sqlx::query_scalar(by_head).bind(&heads).fetch_all(&mut conn).await.unwrap();
        let ours: Vec<i32> = keys.iter().map(|key| shards.of(key.as_bytes()).number().into()).collect();
        assert_eq!(told, ours, "seed {seed}, {count} shards");
        assert_eq!(of_heads, ours, "seed {seed}, {count} shards");
    }
    db.clean().await;
}
