// SQLite at work: fills a table and asks it something. The database is the first argument, or in memory.
#include <stdio.h>

#include "sqlite3.h"

static int row(void *unused, int n, char **values, char **names) {
    (void)unused, (void)n, (void)names;
    puts(values[0]);
    return 0;
}

int main(int argc, char **argv) {
    sqlite3 *db;
    char *error = NULL;
    if (sqlite3_open(argc > 1 ? argv[1] : ":memory:", &db) != SQLITE_OK) return puts(sqlite3_errmsg(db)), 1;
    const char *sql = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);"
                      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
                      " INSERT INTO t SELECT i, 'row ' || i FROM n;"
                      "SELECT count(*) || ' rows, sum ' || sum(a) FROM t WHERE b LIKE 'row %';";
    if (sqlite3_exec(db, sql, row, NULL, &error) != SQLITE_OK) return puts(error), 1;
    sqlite3_close(db);
    return 0;
}
