use relaykit_pipeline_traits::Rng;
use relaykit_sql_store::postgres::TestPostgres;
use relaykit_sql_store::{Names, SHARD_OF, Shards, Sql};

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
    for count in [1, 2, 63, 64, 1000, 1024] {
        let shards = Shards::new(count).unwrap();
        let sql = Sql::with_numbers(
            &Names::new("t").unwrap(),
            &[("shards", count.into())],
            &[
                "select ",
                SHARD_OF,
                " from (select convert_to(k, 'UTF8') as key, n from unnest($1::text[]) with ordinality as u(k, n)) as keys order by n",
            ],
        );
        let told: Vec<i32> = sqlx::query_scalar(sql).bind(&keys).fetch_all(&mut conn).await.unwrap();
        let ours: Vec<i32> = keys.iter().map(|key| shards.of(key.as_bytes()).number().into()).collect();
        assert_eq!(told, ours, "seed {seed}, {count} shards");
    }
    db.clean().await;
}
