//! What the plans of these tests have in common, as literals: each test still reads as one text.

/// From the first line to `[route] mode`; further lines of `[route]` may follow.
macro_rules! head {
    ($id:literal, $title:literal, $environment:literal) => {
        concat!(
            "\nschema = 1\n[plan]\nid = \"",
            $id,
            "\"\ntitle = \"",
            $title,
            "\"\n[cluster]\nenvironment = \"",
            $environment,
            "\"\n[route]\nmode = \"route\"\n"
        )
    };
}

/// The orders in a flat shape, with an index.
macro_rules! flat_orders {
    () => {
        r#"[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [
  { rename = "customer.name", to = "customer_name" },
  { convert = "total", from = "string", to = "decimal" },
  { set = "schema_version", value = 2 },
]
indexes = [{ keys = { customer_name = 1 }, name = "by_customer" }]
"#
    };
}

/// The last two stages: everything on next, and legacy gone.
macro_rules! to_the_end {
    () => {
        r#"[[stage]]
id = "full"
reads = 100
writes = 100
soak = "2s"
[[stage]]
id = "contract"
do = ["quarantine-legacy"]
irreversible = true
"#
    };
}
