"""Why a network decides as it does: the CAM family, its perturbation rivals, and maps on pixels."""
