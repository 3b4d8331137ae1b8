use super::app::{App, done, numbers};

pub(crate) fn scene(app: &App) {
    app.whole("statefulset/postgresql");
    let ask = |member: &str, question: &str| app.shell(member, &format!("psql -At -v ON_ERROR_STOP=1 -c '{question}'"));
    ask("postgresql-0", "CREATE TABLE orders (number int)").ok();
    // Only the first takes writes: while it is away, they wait.
    let first = |_: &str| "postgresql-0".to_owned();
    let write = |via: &str, number: u32| done(ask(via, &format!("INSERT INTO orders VALUES ({number})")));
    let read = |member: &str| numbers(&ask(member, "SELECT $$key-$$ || number FROM orders").out, "key-");
    app.keeps("postgresql", first, write, read);
    assert_eq!(ask("postgresql-1", "SELECT pg_is_in_recovery()").ok(), "t\n");
    assert_ne!(ask("postgresql-1", "INSERT INTO orders VALUES (0)").code, 0, "a follower takes no writes");
}
