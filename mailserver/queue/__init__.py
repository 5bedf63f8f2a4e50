"""Mail that leaves: kept on disk until every recipient is settled, tried again by a schedule, reported.

    entry      what is known of one message, and its text on disk
    spool      the directories: five states, each one a name on disk
    departure  a message on its way into the spool (a destination of `durable.commit`)
    courier    what carries a message away (ports), and what it says about it
    schedule   when to try again, when to give up
    agenda     which entry is due when; intake: how it is found and read
    lanes      turns: who is tried next, and which destination is left alone for a while
    round      one entry at work, and its jobs
    settling   what an outcome means for an entry; closing: what follows it
    ledger     changes of the spool, gathered and made off the loop
    reports    delivery status notifications
    runner     all of it, running; desk: the operator's hand on it

Not here: how mail is carried and by which relay (`delivery`), who may send it (`mta`).
"""
