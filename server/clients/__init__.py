"""Who may use the server, what their requests inherit, and how much they may use."""
