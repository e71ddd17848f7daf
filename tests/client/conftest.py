"""A real server for the client."""

from tests.server.conftest import no_settings_around as no_settings_around
from tests.server.conftest import refuse as refuse
from tests.server.conftest import text_settings as text_settings
from tests.server.conftest import text_url as text_url
