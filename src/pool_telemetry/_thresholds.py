"""From where on a finding is made, each with its reason; docs/reference/findings.md has them all."""

#: Drops, or whatever else costs a set-up: fewer may be chance, or a short script.
LEAST_HITS = 5
#: Of checkouts, one in twenty: from there on, the p95 of the response times is made of it.
HIT_SHARE = 0.05
#: Of fewer closes, p05 and p95 would be two connections.
LEAST_CLOSES = 5
#: p05 and p95 of one limit are no further apart, as a part of it: many servers look for idle connections now and then.
LIMIT_SPREAD = 0.2
#: Seconds that they may always be apart: the grain of the kernel's clock, and a busy server's threads.
LIMIT_SLACK = 0.05
#: Seconds. Nobody sets so short a limit: the server hangs up after its response, and does not say so.
CLOSES_AT_ONCE = 0.05
#: Seconds. AWS's NAT gateways and network load balancers forget a connection then: a longer limit is in vain there.
LONGEST_KEEPALIVE = 350
#: One or two belong to any restart of a server.
LEAST_LOST = 3
#: Of requests on reused connections: more breaks the three nines that are promised nearly everywhere.
LOST_SHARE = 0.001
#: Seconds between a server's close and the request that loses to it: a FIN and a request that pass each other on the
#: longest of ways, and a busy thread at either end. Never more than LIMIT_SPREAD of the limit, or LIMIT_SLACK.
RACE_WINDOW = 0.25
#: So many times as long as half of those lost had others lain idle, and went on: no spread of one limit is so wide.
SURVIVED_TIMES = 2
#: Fewer are what any pool holds after a quiet minute.
LEAST_PARKED = 5
#: As many as requests keeps for each host: fewer are not worth a setting.
LEAST_DISCARDED = 10
#: Checkouts of a blocking pool: of fewer, p95 would be the longest.
LEAST_WAITS = 20
#: Seconds, at p95: ten times as long as Python lets a thread run, so that it is no matter of scheduling.
LONG_WAIT = 0.05
#: One or two may have been broken off from outside, by a KeyboardInterrupt say.
LEAST_TIMED_OUT = 3
#: One is enough: a lost slot never comes back, and a pool of one hangs.
LEAST_LEAKED_SLOTS = 1
#: Pools: a command line tool, or a Session for each thread or part of a program, makes fewer.
LEAST_POOLS = 20
#: Up to so many, half of all checkouts or more open a connection.
CHECKOUTS_PER_POOL = 2
#: Responses that ended their connection: fewer may be error pages.
LEAST_ENDED = 20
#: Of checkouts. Below half, keep-alive works for most, and it may be a single endpoint that closes.
ENDED_SHARE = 0.5
#: Connections reused after a shorter idle time, which show that it is the idle time that matters.
LEAST_SURVIVORS = 5
#: Seconds. Nothing usual on the way forgets a connection sooner; asked for where none was reused to compare with.
SHORTEST_MEMORY = 60
#: One is enough: that two processes use one stream is never meant.
LEAST_INHERITED = 1
#: Hosts whose pools a PoolManager keeps by default: with more of them, pools are made again and again.
HOSTS_KEPT = 10
