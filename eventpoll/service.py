"""The parts of a running service, put together once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventpoll.auth import Bank
from eventpoll.profiles import Profile, all_profiles
from eventpoll.secevent import Minter
from eventpoll.store import Rules, Store
from eventpoll.transmitter import Limits, Transmitter
from eventpoll.waiting import Waiting

if TYPE_CHECKING:
    from config import Config


@dataclass(frozen=True)
class Service:
    """What the wire needs to answer a request."""

    transmitter: Transmitter
    bank: Bank
    profiles: list[Profile]

    @classmethod
    def build(cls, config: "Config") -> "Service":
        """The service that the settings describe; opens no connection yet."""
        rules = Rules(
            redeliver_after=config.redeliver_after,
            max_deliveries=config.max_deliveries,
            on_error=config.on_error,
            retention=config.retention_days * 86400,
            dedupe=config.dedupe_seconds,
        )
        store = Store.open(config.redis_url, config.data_dir, rules)
        transmitter = Transmitter(
            store,
            Waiting(store.subscribe, config.max_held_polls, config.max_held_polls_per_worker),
            Minter(config.issuer, config.signing_keys, config.obie_iss, config.obie_tan),
            Limits(config.number_of_sets_to_return, config.max_events, config.max_acks, config.long_poll_seconds),
            config.set_profile,
            config.push_jwks,
        )
        return cls(
            transmitter, Bank(config.bank_username, config.bank_password), all_profiles(config.wso2_empty_status)
        )
