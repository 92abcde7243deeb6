"""Which proofs are wanted of a served model, and with what load and limits."""

from typing import Literal

from configs.base import StrictModel
from serving_checks.checks.batching import BatchingConfig
from serving_checks.checks.sharding import ShardingConfig
from serving_checks.checks.starvation import StarvationConfig


class ChecksConfig(StrictModel):
    """A check that is null is not made."""

    batching: BatchingConfig | None = BatchingConfig()
    """Are requests batched continuously?"""
    starvation: StarvationConfig | None = StarvationConfig()
    """Do long prompts keep short ones waiting?"""
    sharding: ShardingConfig | None = ShardingConfig()
    """Is the model really split over the ranks, and does it still say the same?"""
    proofs: Literal["kernel", "each"] = "kernel"
    """`kernel`: batching and fairness are proved on the first server of each kernel, the baseline's too, and what runs
    the same engine and kernel alike is covered by that. `each`: on every model's server."""

    @property
    def of_scheduling(self) -> bool:
        """Whether batching or fairness is to be proved."""
        return self.batching is not None or self.starvation is not None

    def check_fits(self, max_model_len: int, max_num_seqs: int | None) -> None:
        """Refuse before any work what the checks would refuse after hours of it.

        Raises:
            RequestError: The requests of a check do not fit the context.
        """
        if self.batching:
            self.batching.check_fits(max_model_len, max_num_seqs)
        if self.starvation:
            self.starvation.long_tokens(max_model_len)

    def sharded_over(self, tensor_parallel_size: int) -> int | None:
        """Ranks of the server that an unsharded one is compared with; None where there is nothing to compare.

        Args:
            tensor_parallel_size: Of the run's own servers.
        """
        if self.sharding is None:
            return None
        ranks = self.sharding.tensor_parallel_size or tensor_parallel_size
        return ranks if ranks > 1 else None
