"""Studio: the service in the browser, with the functions and the rights of the API. NiceGUI pages below /studio.

NiceGUI keeps its pages for the whole process, so a process has one Studio.
"""
