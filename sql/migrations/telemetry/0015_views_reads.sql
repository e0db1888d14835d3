-- What views read beside windows.
SELECT 1; -- filled in soon
