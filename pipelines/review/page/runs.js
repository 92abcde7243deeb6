views.runs = { title: "Runs", always: true, draw: element => element.append(heading("Runs")) };
