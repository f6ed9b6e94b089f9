"""PostgreSQL: the engine for several gateway processes on one database.

`dialect` turns the stores' statements into PostgreSQL's, `bridge` lets their plain functions run on asyncpg,
`connecting` opens connections and translates their errors, `database` is what the rest of the program sees.
"""
