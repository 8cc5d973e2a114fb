"""What this project has to set, and at the top what yours would add for pool_telemetry."""

from web import is_exporting, show_spans_on_console

INSTALLED_APPS = ["mysite", "pool_telemetry.django"]
POOL_TELEMETRY = {"export": True}  # the arguments of pool_telemetry.install(), if any

if not is_exporting():
    show_spans_on_console()  # in the place of your own set-up of OpenTelemetry, if you have one

DEBUG = True
SECRET_KEY = "of an example, and so not secret"
TIME_ZONE = "UTC"
ROOT_URLCONF = "mysite.urls"
WSGI_APPLICATION = "mysite.wsgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
