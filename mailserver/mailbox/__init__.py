"""Where mail rests: Maildir++ mailboxes, their quota, lock, unique ids, Trash and sweeping.

Plain synchronous Python; the caller decides on the thread. Mailboxes are shared with other programs
(Dovecot, Courier, mutt) at any time, so every name may move or vanish between two calls.
Not here: which mailbox belongs to whom, and how a message's content becomes durable (`durable.commit`).
"""
