"""A Chromium without a screen: Qt's WebEngine, whose wheel brings the browser. Run as a process of its own."""

import signal
import sys

from PySide6.QtCore import QUrl
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication

signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Qt's loop would never let Python handle it
application = QApplication(sys.argv)
window = QWebEngineView()
window.resize(1280, 900)
window.load(QUrl("about:blank"))
window.show()
sys.exit(application.exec())
