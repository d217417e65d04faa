from export.serving.app import create_app as create_app
from export.serving.client import Client as Client
from export.serving.errors import ServingError as ServingError
from export.serving.server import Server as Server
from export.serving.service import Limits as Limits, Service as Service
