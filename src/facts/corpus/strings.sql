SELECT 'a\'' FROM orders --';
SELECT E'\'' , U&'d\0061t', $q$ ; $q$, $$ $x$ $$, B'01', X'1f', 1e10, 0x1F, 1_000, :'v';
/* a /* nested */ comment */ SELECT "a""b" FROM "Orders"
