"""The parts of a running service, built once from the settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eventpoll.access.certificate import ClientCertificate
from eventpoll.access.door import Bank, Door
from eventpoll.access.failed_logins import Guesses, Slowing
from eventpoll.access.issuer_keys import IssuerKeys
from eventpoll.access.passwords import Password
from eventpoll.access.poll_rate import Rate
from eventpoll.access.tokens import BANK_SCOPE, Protector, Validator
from eventpoll.delivery.held_polls import Waiting
from eventpoll.delivery.transmitter import Limits, Transmitter
from eventpoll.sets.minting import Minter
from eventpoll.settings import Config
from eventpoll.store.records import Rules
from eventpoll.store.store import Store


@dataclass(frozen=True)
class Service:
    """The parts that the views need to answer a request."""

    transmitter: Transmitter
    door: Door
    profiles: Sequence[Any]
    """The profiles (profiles.Profile) of the polls. The service only keeps them for the views."""

    rate: Rate | None = None
    warnings: tuple[str, ...] = ()
    """Warnings about settings that are allowed but may do harm."""

    prefix: str = ""
    """The prefix of every path: the url_prefix of init_app, or ""."""

    @classmethod
    def build(cls, config: Config, profiles: Sequence[Any] = (), prefix: str = "") -> "Service":
        """Return the service that the settings describe. This call opens no connection."""
        rules = Rules(
            redeliver_after=config.redeliver_after,
            max_deliveries=config.max_deliveries,
            on_error=config.on_error,
            retention=config.retention_days * 86400,
            dedupe=config.dedupe_seconds,
            wait_replicas=config.wait_replicas,
            wait=config.wait_replicas_ms / 1000,
            max_clock_skew=config.max_clock_skew_seconds,
        )
        store = Store.open(config.store_url, config.data_dir, rules, fast_path=bool(config.fast_paths))
        transmitter = Transmitter(
            store,
            Waiting(store.subscribe, config.max_held_polls, config.max_held_polls_per_worker),
            Minter(config.issuer, config.signing_keys, config.obie_iss, config.obie_tan),
            Limits(config.number_of_sets_to_return, config.max_events, config.max_acks, config.long_poll_seconds),
            config.set_profile,
            config.push_jwks,
        )
        rate = Rate(config.poll_rate, store) if config.poll_rate else None
        return cls(transmitter, _door(config, store), profiles, rate, config.warnings, prefix)


def _door(config: Config, store: Store) -> Door:
    bank = None
    if config.bank_username is not None and config.bank_password is not None:
        bank = Bank(config.bank_username, Password(config.bank_password))
    slowing, guesses = Slowing(config.failed_login_seconds), Guesses(config.failed_login_seconds)
    if config.token_issuer is None or config.token_audience is None or config.token_jwks is None:
        return Door(bank, store.prove, slowing=slowing, guesses=guesses)

    validator = Validator(
        config.token_issuer,
        config.token_audience,
        IssuerKeys(config.token_jwks),
        config.token_algorithms,
        ClientCertificate(config.client_cert_header, config.trusted_proxies).thumbprint,
        config.token_types,
        config.token_binding,
    )
    bank_scopes = {"on": (BANK_SCOPE,), "off": ()}[config.token_bank_scope]
    return Door(bank, store.prove, Protector(validator), config.token_scopes, slowing, bank_scopes, guesses)
