"""The story of a message, picked out of a log of many."""

from mailserver.admin.story import story

LOG = """\
T event=received id=M1 peer=192.0.2.1 sender=<ann@a.test> to=b@b.test stored=1
T event=queued id=M1 message=M1 sender=<ann@a.test> to=b@b.test recipients=1
T event=queued id=M1N2 message=M1 sender=<SRS0=x@a.test> to=c@c.test recipients=1
T event=received id=M2 peer=192.0.2.1 helo="id=M1" sender=<ann@a.test>
T event=recipient-refused peer=192.0.2.1 rcpt="TO:<\\" id=M1 message=M1>" reply="550 5.1.1 No"
T event=delivery id=M1 to=b@b.test outcome=failed reply="550 5.1.1 no such user OK M2"
T event=report id=M1 to=ann@a.test about=failed report=M1.17 reply="250 2.0.0 OK M3"
T event=settled id=M1 delivered=0 failed=1
T event=delivery id=M1N2 to=c@c.test outcome=delivered reply="250 2.0.0 OK M4"
T event=received id=M12 peer=192.0.2.1
T event=received id=M4 peer=192.0.2.1
T event=queued id=M3 message=M3 sender=<> to=ann@a.test
T event=delivery id=M3 to=ann@a.test outcome=delivered
""".splitlines()

WHOLE = [0, 1, 2, 5, 6, 7, 8, 11, 12]


def told(message):
    return [LOG.index(line) for line in story(LOG, message)]


def test_all_lines_of_a_message_its_further_entries_and_its_reports():
    assert told("M1") == WHOLE


def test_the_story_is_found_by_the_id_of_a_further_entry():
    assert told("M1N2") == WHOLE


def test_a_report_has_a_story_of_its_own():
    assert told("M3") == [11, 12]


def test_what_clients_say_is_no_field_of_a_line():
    assert told("M2") == [3]
    assert told("M9") == []
