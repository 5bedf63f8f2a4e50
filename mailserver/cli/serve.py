"""`mailserver serve`: from options to a running server, whose engine is `server.appliance`."""

from __future__ import annotations

from functools import partial

import click

from mailserver.admin.first_start import first_start
from mailserver.admin.refused import Refused
from mailserver.cli import arguments, letters, place
from mailserver.cli.loading import loading
from mailserver.cli.ownership import make_for
from mailserver.config.model import Listener, ListenerProtocol
from mailserver.config.overrides import Overrides
from mailserver.config.values import EndpointText

_FILE = click.Path(dir_okay=False, resolve_path=True)


@click.command(cls=letters.InOrder)
@click.option(
    "-d",
    "--domain",
    "domains",
    metavar="DOMAIN=DIR",
    type=arguments.domain_and_path,
    multiple=True,
    help="Serve this domain, with its mailboxes in DIR. Without --config, the configuration is in "
    "DIR/.config of the first one.",
)
@click.option(
    "-u",
    "users",
    metavar="USER=PASSWORD",
    type=arguments.user_and_password,
    multiple=True,
    help="A user of the last domain. Everybody on this machine can see the password in the list of "
    "processes; `mailserver user add --password-stdin` keeps it to itself.",
)
@click.option(
    "-b",
    "undeliverable_to_postmaster",
    count=True,
    help="Postmaster of the last domain gets the mail for names that nobody has.",
)
@click.option(
    "-s",
    "--smtp",
    metavar="ENDPOINT",
    type=arguments.endpoint,
    multiple=True,
    help="Take mail by SMTP here, such as tcp:127.0.0.1:2525, and not where the file says. Repeatable.",
)
@click.option(
    "-p", "--pop3", metavar="ENDPOINT", type=arguments.endpoint, multiple=True, help="POP3, likewise."
)
@click.option(
    "--submission", metavar="ENDPOINT", type=arguments.endpoint, multiple=True, help="Submission, likewise."
)
@click.option("--lmtp", metavar="ENDPOINT", type=arguments.endpoint, multiple=True, help="LMTP, likewise.")
@click.option("--user", metavar="NAME", help="Become this user after binding the ports.")
@click.option("--group", metavar="NAME", help="And this group.")
@click.option("--allow-root", is_flag=True, help="Serve as root.")
@click.option("--log-file", metavar="FILE", type=_FILE, help="Log there, not to standard error.")
@click.option("--pid-file", metavar="FILE", type=_FILE, help="Write the process number there.")
@click.pass_context
def serve(
    context: click.Context,
    domains: tuple[tuple[str, str], ...],
    users: tuple[tuple[str, str], ...],
    undeliverable_to_postmaster: int,
    smtp: tuple[EndpointText, ...],
    pop3: tuple[EndpointText, ...],
    submission: tuple[EndpointText, ...],
    lmtp: tuple[EndpointText, ...],
    user: str | None,
    group: str | None,
    allow_root: bool,
    log_file: str | None,
    pid_file: str | None,
) -> None:
    """Run the server in the foreground.

    SIGTERM and SIGINT let sessions end and stop it, SIGHUP reloads configuration and certificates,
    SIGUSR1 reopens the log file.

    -d, -u and -b write an ordinary configuration, which stays; -u sets the password of a user who is there.
    """
    overrides = Overrides(
        listeners=(
            *_listeners("smtp", smtp),
            *_listeners("submission", submission),
            *_listeners("pop3", pop3),
            *_listeners("lmtp", lmtp),
        ),
        user=user,
        group=group,
        allow_root=allow_root,
        log_file=log_file,
        pid_file=pid_file,
    )
    grouped = letters.group(context, domains, users)
    directory = place.given_directory()
    if grouped:
        directory = letters.establish(grouped, directory, overrides)
    _start(directory or place.default_directory(), overrides)


def _listeners(protocol: ListenerProtocol, endpoints: tuple[EndpointText, ...]) -> list[Listener]:
    return [Listener(protocol=protocol, endpoint=endpoint) for endpoint in endpoints]


def _start(directory: str, overrides: Overrides) -> None:
    make = partial(make_for, user=overrides.user, group=overrides.group)
    made = first_start(directory, make)
    if made is not None:
        click.echo(f"First start: user {made.address}, password {made.password} (shown this once)")
    with loading("mailserver.server.appliance"):
        from mailserver.server import appliance  # the event loop and all protocols, for this command alone

    try:
        appliance.serve(directory, overrides)
    except appliance.StartError as error:
        raise Refused(str(error)) from error
