"""Mail that leaves: kept on disk until every recipient is settled, tried again by a schedule, reported.

    entry      what is known of one message, and its text on disk
    spool      the directories: five states, each one a name on disk
    departure  a message on its way into the spool (a destination of `durable.commit`)
    schedule   when to try again, when to give up
    courier    what carries a message away (ports), and what it says about it
    lanes      turns: who is tried next, and which destination is left alone for a while
    ledger     changes of the spool, gathered and made off the loop
    reports    delivery status notifications
    runner     all of it, running

Not here: how mail is carried (`delivery`), where it goes (`delivery.relays`), who may send it (`mta`).
"""
