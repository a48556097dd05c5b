use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{Rng, Timestamp};
use relaykit_sql_store::postgres::{PgJson, PgTimestamp, PgUuid, TestPostgres};
use sqlx::Row;

#[tokio::test]
async fn ids_moments_and_json_make_the_round_trip_alone_in_arrays_and_as_null() {
    let Some(db) = TestPostgres::new().await else { return };
    let mut conn = db.connection().await;
    let id = PgUuid(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
    let at = PgTimestamp(Timestamp::from_micros(1_763_683_200_000_001));
    let json = PgJson(r#"{"k": ["ü", 1, null]}"#.into());
    let row = sqlx::query(
        "select $1, $2, $3, $4, $5, $6, $1::text, $2::timestamptz at time zone 'UTC', null::uuid",
    )
    .bind(id)
    .bind(at)
    .bind(&json)
    .bind(vec![id, id])
    .bind(vec![Some(at), None])
    .bind(vec![json.clone()])
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(row.get::<PgUuid, _>(0), id);
    assert_eq!(row.get::<PgTimestamp, _>(1), at);
    assert_eq!(row.get::<PgJson, _>(2), json);
    assert_eq!(row.get::<Vec<PgUuid>, _>(3), [id, id]);
    assert_eq!(row.get::<Vec<Option<PgTimestamp>>, _>(4), [Some(at), None]);
    assert_eq!(row.get::<Vec<PgJson>, _>(5), [json]);
    assert_eq!(row.get::<String, _>(6), "01234567-89ab-cdef-0123-456789abcdef");
    assert_eq!(row.get::<Option<PgUuid>, _>(8), None);
    db.clean().await;
}

/// The server's own arithmetic is the judge, from year 1 to year 9999 and around its epoch.
#[tokio::test]
async fn the_server_reads_moments_as_we_write_them() {
    let Some(db) = TestPostgres::new().await else { return };
    let mut conn = db.connection().await;
    let seed = 20;
    let mut rng = Rng::seeded(seed);
    let mut moments: Vec<i64> = vec![0, -1, 946_684_800_000_000, 946_684_799_999_999];
    moments.extend(
        (0..200).map(|_| i64::try_from(rng.below(315_537_897_600_000_000)).unwrap() - 62_135_596_800_000_000),
    );
    for micros in moments {
        let (told, moment): (i64, PgTimestamp) = sqlx::query_as(
            "select (extract(epoch from $1::timestamptz) * 1000000)::bigint,
                    'epoch'::timestamptz + trunc($2::bigint / 1000000) * interval '1 s' + ($2::bigint % 1000000) * interval '1 microsecond'",
        )
        .bind(PgTimestamp(Timestamp::from_micros(micros)))
        .bind(micros)
        .fetch_one(&mut conn)
        .await
        .unwrap();
        assert_eq!((told, moment.0.as_micros()), (micros, micros), "seed {seed}");
    }
    db.clean().await;
}

#[tokio::test]
async fn infinity_reads_and_a_moment_that_is_out_of_range_is_refused_before_it_is_sent() {
    let Some(db) = TestPostgres::new().await else { return };
    let mut conn = db.connection().await;
    let (first, last): (PgTimestamp, PgTimestamp) =
        sqlx::query_as("select '-infinity'::timestamptz, 'infinity'::timestamptz")
            .fetch_one(&mut conn)
            .await
            .unwrap();
    assert_eq!((first.0.as_micros(), last.0.as_micros()), (i64::MIN, i64::MAX));
    let refused = sqlx::query("select $1").bind(first).execute(&mut conn).await.unwrap_err();
    assert!(matches!(refused, sqlx::Error::Encode(_)), "{refused:?}");
    db.clean().await;
}
