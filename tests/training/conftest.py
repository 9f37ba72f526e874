from tests.models.conftest import bundled, one_thread, tiny

__all__ = ["bundled", "one_thread", "tiny"]
