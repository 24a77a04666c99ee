"""Lance tables: schema, fragments, commits, diff, the `live` tag, search. The only home of lance and lancedb."""
