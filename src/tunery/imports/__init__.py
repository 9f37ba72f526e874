"""Files fetched from a link: Azure Blob with or without a SAS, or anything else that answers a GET."""

from tunery.imports.fetch import Fetch, fail_import
from tunery.imports.rows import Claim, Imports, NewImport

__all__ = ["Claim", "Fetch", "Imports", "NewImport", "fail_import"]
