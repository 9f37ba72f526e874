from tests.models.conftest import bundled, one_thread, same_numbers, tiny

__all__ = ["bundled", "one_thread", "same_numbers", "tiny"]
