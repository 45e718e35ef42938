from deepseek_cli.main import main

raise SystemExit(main())
